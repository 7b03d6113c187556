/*
 * Holds many connections to one server and writes prepared bytes to them as fast as it is told, without looking at what
 * comes back: the part of a flood that must be faster than the server it is aimed at.
 *
 *   gun SOURCE_ADDRESS PORT CONNECTIONS MESSAGES_PER_SECOND SECONDS AMMUNITION
 *
 * AMMUNITION is a file of kinds, each: number of frames to send once, number to repeat for ever, how many of these to
 * write at once (0: every frame alone), whether to leave after the first of such volleys, whether to read what the server
 * says; then the frames, each behind its length. All numbers are 32 bits in the machine's order. Connection n does kind n
 * modulo their number.
 *
 * Frames that are written alone wait until the connection takes them, and one that was closed is opened again after
 * RECONNECT_S. A kind with volleys waits for nothing: handshake and volley are one write, and a connection that takes no more
 * for PATIENCE_S, or was cut off, is given up for a new one. MESSAGES_PER_SECOND is for all of them together; what could not
 * be written for want of the processor is made up for within CATCH_UP_S.
 *
 * Prints one JSON object per kind at the end, and then one of itself. `offered` are frames that the kernel has taken (of
 * volleys without the handshake), `bytes` all their bytes, `acked` those of them that the other side's kernel has
 * acknowledged; `left` are connections that were given up, `cut` those that the server ended, `refused` with 429.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_KINDS = 32, AT_ONCE = 512 };
static const double RECONNECT_S = 0.2, PATIENCE_S = 0.1, GIVE_UP_S = 3, CATCH_UP_S = 5;

struct belt { const char *data; uint32_t count, size, *ends; }; /* frames behind each other */
struct kind {
  uint32_t once, repeated, volley, leaves, reads;
  struct belt first, more; /* what is written first, and then again and again */
  unsigned long opened, refused, cut, failed, left, offered, bytes, acked;
};
struct connection {
  int fd; /* -1 while there is none */
  struct kind *kind;
  uint32_t next, offset; /* frame of the belt, byte of the belt */
  int is_open, is_blocked, was_heard, is_first;
  double again_at, blocked_at;
  uint64_t written;
};

static struct kind kinds[MOST_KINDS];
static int kind_count;
static struct sockaddr_in source, target;
static int poller;
static volatile sig_atomic_t is_over;

static void over(int number) { (void)number; is_over = 1; }

static double now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what) { perror(what); exit(2); }

/* Frames `from` to `to` of those at `at`, again from `back` on when they are at their end, `count` in all. */
static struct belt make_belt(const char *at, uint32_t from, uint32_t back, uint32_t to, uint32_t count)
{
  struct belt belt = { NULL, count, 0, calloc(count + 1, sizeof(uint32_t)) };
  const char **starts = calloc(to + 1, sizeof *starts);
  uint32_t *sizes = calloc(to + 1, sizeof *sizes), total = 0;
  for (uint32_t i = 0; i < to; i++) {
    memcpy(&sizes[i], at, 4);
    starts[i] = at + 4;
    at += 4 + sizes[i];
  }
  for (uint32_t n = 0, i = from; n < count; n++, i = i + 1 < to ? i + 1 : back) total += sizes[i];
  char *data = malloc(total + 1);
  for (uint32_t n = 0, i = from; n < count; n++, i = i + 1 < to ? i + 1 : back) {
    memcpy(data + belt.size, starts[i], sizes[i]);
    belt.ends[n] = belt.size += sizes[i];
  }
  belt.data = data;
  free(starts);
  free(sizes);
  return belt;
}

static void load(const char *path)
{
  struct stat info;
  int file = open(path, O_RDONLY);
  if (file < 0 || fstat(file, &info)) fail(path);
  const char *at = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, file, 0), *end = at + info.st_size;
  if (at == MAP_FAILED) fail(path);
  while (at < end && kind_count < MOST_KINDS) {
    struct kind *kind = &kinds[kind_count++];
    memcpy(&kind->once, at, 4); memcpy(&kind->repeated, at + 4, 4);
    memcpy(&kind->volley, at + 8, 4);
    memcpy(&kind->leaves, at + 12, 4); memcpy(&kind->reads, at + 16, 4);
    at += 20;
    uint32_t all = kind->once + kind->repeated;
    kind->first = make_belt(at, 0, kind->once, all, kind->once + kind->volley);
    kind->more = make_belt(at, kind->once, kind->once, all, kind->volley ? kind->volley : kind->repeated);
    for (uint32_t i = 0, size; i < all; i++, at += 4 + size) memcpy(&size, at, 4);
  }
}

static void drop(struct connection *c, unsigned long *counter, double t)
{
  int unacked = 0;
  if (c->is_open && !ioctl(c->fd, SIOCOUTQ, &unacked) && c->written > (uint64_t)unacked)
    c->kind->acked += c->written - unacked;
  if (!c->kind->volley) {
    struct linger none = { 1, 0 };
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  }
  close(c->fd);
  c->fd = -1;
  c->again_at = c->kind->volley ? 0 : t + RECONNECT_S;
  ++*counter;
}

static void begin(struct connection *c, double t)
{
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) { c->again_at = t + 1; return; }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  c->next = c->offset = c->written = 0;
  c->is_open = c->was_heard = 0;
  c->is_blocked = c->is_first = 1;
  c->blocked_at = t;
  struct epoll_event event = { EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, { .ptr = c } };
  if (bind(c->fd, (struct sockaddr *)&source, sizeof source)
      || (connect(c->fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS)
      || epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event)) {
    drop(c, &c->kind->failed, t);
    c->again_at = t + RECONNECT_S;
  }
}

/* Write the next frame, or the rest of a volley; how many frames went out to their ends. */
static uint32_t shoot(struct connection *c, double t)
{
  struct kind *kind = c->kind;
  struct belt *belt = c->is_first ? &kind->first : &kind->more;
  if (c->next >= belt->count) {
    if (!kind->repeated) return 0;
    belt = &kind->more;
    c->is_first = 0;
    c->next = c->offset = 0;
  }
  uint32_t until = kind->volley ? belt->size : belt->ends[c->next], before = c->next;
  ssize_t wrote = send(c->fd, belt->data + c->offset, until - c->offset, MSG_NOSIGNAL);
  if (wrote < 0) {
    if (errno == EAGAIN) { c->is_blocked = 1; c->blocked_at = t; }
    else drop(c, &kind->cut, t);
    return 0;
  }
  kind->bytes += wrote;
  c->written += wrote;
  c->offset += wrote;
  if (c->offset < until) { c->is_blocked = 1; c->blocked_at = t; }
  while (c->next < belt->count && belt->ends[c->next] <= c->offset) c->next++;
  uint32_t done = c->next - before, greeting = c->is_first && before < kind->once ? kind->once - before : 0;
  if (kind->volley) done -= done < greeting ? done : greeting;
  kind->offered += done;
  if (kind->leaves && c->next >= belt->count) drop(c, &kind->left, t);
  return done;
}

static void hear(struct connection *c, uint32_t events, double t)
{
  static char buffer[1 << 16];
  struct kind *kind = c->kind;
  if ((events & (EPOLLERR | EPOLLHUP)) && !(events & EPOLLIN)) {
    drop(c, c->is_open ? &kind->cut : &kind->failed, t);
    return;
  }
  if (events & EPOLLOUT) {
    if (!c->is_open) { c->is_open = 1; kind->opened++; }
    c->is_blocked = 0;
  }
  if ((events & EPOLLIN) && (kind->reads || !c->was_heard)) {
    ssize_t got;
    while ((got = recv(c->fd, buffer, sizeof buffer, 0)) > 0) {
      if (!c->was_heard && got > 12 && !memcmp(buffer, "HTTP/1.1 429", 12)) { drop(c, &kind->refused, t); return; }
      c->was_heard = 1;
      if (!kind->reads) break;
    }
    if (!got || (got < 0 && errno != EAGAIN)) { drop(c, &kind->cut, t); return; }
  }
  if (events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP)) drop(c, &kind->cut, t);
}

int main(int count, char **words)
{
  if (count != 7) { fprintf(stderr, "usage: gun SOURCE PORT CONNECTIONS MESSAGES_PER_SECOND SECONDS FILE\n"); return 2; }
  int connections = atoi(words[3]);
  double rate = atof(words[4]), seconds = atof(words[5]);
  source.sin_family = target.sin_family = AF_INET;
  source.sin_addr.s_addr = inet_addr(words[1]);
  target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  target.sin_port = htons(atoi(words[2]));
  load(words[6]);
  signal(SIGTERM, over);
  signal(SIGPIPE, SIG_IGN);
  if ((poller = epoll_create1(0)) < 0) fail("epoll");
  struct connection *all = calloc(connections, sizeof *all);
  for (int i = 0; i < connections; i++) { all[i].fd = -1; all[i].kind = &kinds[i % kind_count]; }
  double begun = now(), last = begun, tokens = 0;
  int at = 0;
  while (!is_over && now() - begun < seconds) {
    struct epoll_event events[AT_ONCE];
    int ready = epoll_wait(poller, events, AT_ONCE, 1);
    double t = now();
    for (int i = 0; i < ready; i++) {
      struct connection *c = events[i].data.ptr;
      if (c->fd >= 0) hear(c, events[i].events, t);
    }
    tokens += (t - last) * rate;
    if (tokens > rate * CATCH_UP_S) tokens = rate * CATCH_UP_S;
    last = t;
    int opened = 0;
    for (int looked = 0; looked < connections && tokens >= 1; looked++, at = (at + 1) % connections) {
      struct connection *c = &all[at];
      if (c->fd < 0) {
        if (t >= c->again_at && opened < AT_ONCE) { begin(c, t); opened++; }
      } else if (c->is_open && !c->is_blocked)
        tokens -= shoot(c, t);
      else if (c->kind->volley && t - c->blocked_at > (c->is_open ? PATIENCE_S : GIVE_UP_S))
        drop(c, &c->kind->left, t);
    }
  }
  double took = now() - begun;
  for (int i = 0; i < connections; i++)
    if (all[i].fd >= 0) drop(&all[i], &all[i].kind->left, took);
  for (int i = 0; i < kind_count; i++) {
    struct kind *k = &kinds[i];
    printf("{\"kind\": %d, \"opened\": %lu, \"refused\": %lu, \"cut\": %lu, \"failed\": %lu, \"left\": %lu, "
           "\"offered\": %lu, \"bytes\": %lu, \"acked\": %lu, \"seconds\": %.3f}\n",
           i, k->opened, k->refused, k->cut, k->failed, k->left, k->offered, k->bytes, k->acked, took);
  }
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  printf("{\"cores\": %.3f}\n", (used.ru_utime.tv_sec + used.ru_stime.tv_sec
                                 + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6) / took);
  return 0;
}
