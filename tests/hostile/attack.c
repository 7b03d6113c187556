/* System calls that a program inside of a sandbox might try. Statically linked; prints one line per try: name errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void report(const char *name, long result) {
  printf("%s %d\n", name, result < 0 ? errno : 0);
}

#define TRY(name, ...) do { errno = 0; report(#name, syscall(SYS_##name, __VA_ARGS__)); } while (0)

static void calls(void) {
  char buffer[256] = {0};
  TRY(mount, "none", "/proc", "tmpfs", 0, 0);
  TRY(umount2, "/proc/kcore", 0);
  TRY(pivot_root, "/", "/");
  TRY(chroot, "/");
  TRY(unshare, CLONE_NEWUSER);
  TRY(setns, 0, 0);
  TRY(clone3, buffer, 64);
  TRY(ptrace, PTRACE_ATTACH, 1, 0, 0);
  TRY(process_vm_readv, 1, buffer, 0, buffer, 0, 0);
  TRY(process_vm_writev, 1, buffer, 0, buffer, 0, 0);
  TRY(pidfd_open, 1, 0);
  TRY(kcmp, 1, 1, 0, 0, 0);
  TRY(kill, -1, SIGKILL);
  TRY(kill, 1, SIGKILL);
  TRY(io_uring_setup, 1, buffer);
  TRY(userfaultfd, 0);
  TRY(bpf, 0, buffer, sizeof buffer);
  TRY(keyctl, 0, 0, 0, 0, 0);
  TRY(add_key, "user", "x", "y", 1, -3);
  TRY(request_key, "user", "x", "y", -3);
  TRY(perf_event_open, buffer, 0, -1, -1, 0);
  TRY(init_module, buffer, 1, "");
  TRY(kexec_load, 0, 0, 0, 0);
  TRY(reboot, 0xfee1dead, 672274793, 0, 0);
  TRY(settimeofday, buffer, 0);
  TRY(sethostname, "x", 1);
  TRY(syslog, 3, buffer, 10);
  TRY(personality, 0x0400000);
  TRY(open_by_handle_at, 0, buffer, 0);
  TRY(name_to_handle_at, AT_FDCWD, "/", buffer, buffer, 0);
  TRY(memfd_create, "x", 0);
  TRY(mknod, "/x", 0600 | 060000, 0x801);
  TRY(shmget, 1, 4096, 01600);
  TRY(msgget, 1, 01600);
  TRY(semget, 1, 1, 01600);
  TRY(mq_open, "/x", 0102, 0600, 0);
  TRY(setuid, 0);
  TRY(setgid, 0);
  TRY(setresuid, 0, 0, 0);
  TRY(setgroups, 0, 0);
  TRY(setpriority, 0, 0, -20);
  TRY(sched_setaffinity, 0, 8, buffer);
  TRY(fanotify_init, 0, 0);
  TRY(inotify_init1, 0);
  TRY(landlock_create_ruleset, 0, 0, 1);
  TRY(seccomp, 0, 0, 0);
  TRY(chmod, "/attack", 04755);
  TRY(symlink, "/etc", "/l");
  TRY(link, "/attack", "/l");
  TRY(rename, "/attack", "/l");
  TRY(unlink, "/attack");
  TRY(swapon, "/x", 0);
  TRY(acct, "/x");
  TRY(quotactl, 0, 0, 0, 0);
  TRY(iopl, 3);
  TRY(ioperm, 0, 1, 1);
  TRY(modify_ldt, 0, buffer, 16);
  TRY(vhangup, 0);
  TRY(execveat, -1, "/attack", 0, 0, 0);
  TRY(process_madvise, 1, 0, 0, 0, 0);
  int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_BLUETOOTH};
  for (unsigned i = 0; i < sizeof families / sizeof *families; i++) {
    errno = 0;
    report("socket", syscall(SYS_socket, families[i], SOCK_STREAM, 0));
    report("socket_raw", syscall(SYS_socket, families[i], SOCK_RAW, 255));
  }
  int pair[2];
  TRY(socketpair, AF_UNIX, SOCK_STREAM, 0, pair);
}

static void forks(void) {
  for (int i = 0; i < 100; i++) {
    errno = 0;
    long child = i % 3 == 0 ? syscall(SYS_fork) : i % 3 == 1 ? syscall(SYS_vfork) : syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
      for (;;) pause();
    report("fork", child);
  }
}

int main(int count, char **words) {
  const char *what = count > 1 ? words[1] : "";
  setvbuf(stdout, 0, _IONBF, 0);
  if (!strcmp(what, "calls")) calls();
  if (!strcmp(what, "forks")) forks();
  if (!strcmp(what, "traceme")) {
    errno = 0;
    report("traceme", ptrace(PTRACE_TRACEME, 0, 0, 0));
    raise(SIGURG);
    raise(SIGTRAP);
    printf("alive 0\n");
  }
  if (!strcmp(what, "memory"))
    for (;;) {
      char *block = malloc(16 << 20);
      if (block) memset(block, 1, 16 << 20);
    }
  if (!strcmp(what, "descriptors")) {
    int n = 0;
    while (open("/dev/null", O_RDONLY) >= 0) n++;
    printf("descriptors %d\nopen %d\n", n, errno);
  }
  if (!strcmp(what, "signals")) {
    for (int number = 1; number < 32; number++) signal(number, SIG_IGN);
    printf("ignoring 0\n");
    for (;;) pause();
  }
  if (!strcmp(what, "stopped")) {
    printf("stopping 0\n");
    raise(SIGSTOP);
    for (;;) pause();
  }
  if (!strcmp(what, "crash")) *(volatile int *)0 = 1;
  return 0;
}
