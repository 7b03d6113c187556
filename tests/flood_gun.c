/*
 * Holds many connections to one server and writes prepared bytes to them as fast as it is told, without looking at what
 * comes back: the part of a flood that must be faster than the server it is aimed at.
 *
 *   flood_gun SOURCE_ADDRESS PORT CONNECTIONS FRAMES_PER_SECOND SECONDS AMMUNITION
 *
 * AMMUNITION is a file of kinds, each: number of frames to send once, number to repeat for ever, whether to read what
 * the server says, then the frames, each behind its length; all numbers are 32 bits in the machine's order. Connection n
 * does kind n modulo their number, and connects again when it is closed. Prints one JSON object per kind at the end.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_KINDS = 32, AT_ONCE = 512 };
static const double RECONNECT_S = 0.2;

struct frame { const char *data; uint32_t size; };
struct kind {
  uint32_t once, repeated, reads;
  struct frame *frames;
  unsigned long opened, refused, closed, failed, sent, bytes;
};
struct connection {
  int fd;               /* -1 while there is none */
  struct kind *kind;
  uint32_t next, offset;
  int is_open, is_blocked, was_heard;
  double again_at;
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

static void load(const char *path)
{
  struct stat info;
  int file = open(path, O_RDONLY);
  if (file < 0 || fstat(file, &info)) fail(path);
  const char *at = mmap(NULL, info.st_size, PROT_READ, MAP_PRIVATE, file, 0), *end = at + info.st_size;
  if (at == MAP_FAILED) fail(path);
  while (at < end && kind_count < MOST_KINDS) {
    struct kind *kind = &kinds[kind_count++];
    memcpy(&kind->once, at, 4); memcpy(&kind->repeated, at + 4, 4); memcpy(&kind->reads, at + 8, 4);
    at += 12;
    uint32_t count = kind->once + kind->repeated;
    kind->frames = calloc(count, sizeof *kind->frames);
    for (uint32_t i = 0; i < count; i++) {
      memcpy(&kind->frames[i].size, at, 4);
      kind->frames[i].data = at + 4;
      at += 4 + kind->frames[i].size;
    }
  }
}

static void drop(struct connection *c, unsigned long *counter)
{
  struct linger none = { 1, 0 };
  setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  close(c->fd);
  c->fd = -1;
  c->again_at = now() + RECONNECT_S;
  ++*counter;
}

static void begin(struct connection *c)
{
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) { c->again_at = now() + 1; return; }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  c->next = c->offset = 0;
  c->is_open = c->was_heard = 0;
  c->is_blocked = 1;
  struct epoll_event event = { EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, { .ptr = c } };
  if (bind(c->fd, (struct sockaddr *)&source, sizeof source)
      || (connect(c->fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS)
      || epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event))
    drop(c, &c->kind->failed);
}

/* Write the next frame; whether one was written to its end. */
static int shoot(struct connection *c)
{
  struct kind *kind = c->kind;
  if (c->next >= kind->once + kind->repeated) {
    if (!kind->repeated) return 0;
    c->next = kind->once;
  }
  struct frame *frame = &kind->frames[c->next];
  ssize_t wrote = send(c->fd, frame->data + c->offset, frame->size - c->offset, MSG_NOSIGNAL);
  if (wrote < 0) {
    if (errno == EAGAIN) c->is_blocked = 1;
    else drop(c, &kind->closed);
    return 0;
  }
  kind->bytes += wrote;
  c->offset += wrote;
  if (c->offset < frame->size) { c->is_blocked = 1; return 0; }
  c->offset = 0;
  c->next++;
  kind->sent++;
  return 1;
}

static void hear(struct connection *c, uint32_t events)
{
  static char buffer[1 << 16];
  if (events & (EPOLLERR | EPOLLHUP)) { drop(c, c->is_open ? &c->kind->closed : &c->kind->failed); return; }
  if (events & EPOLLOUT) {
    if (!c->is_open) { c->is_open = 1; c->kind->opened++; }
    c->is_blocked = 0;
  }
  if ((events & EPOLLIN) && (c->kind->reads || !c->was_heard)) {
    ssize_t got;
    while ((got = recv(c->fd, buffer, sizeof buffer, 0)) > 0) {
      if (!c->was_heard && got > 12 && !memcmp(buffer, "HTTP/1.1 429", 12)) { drop(c, &c->kind->refused); return; }
      c->was_heard = 1;
      if (!c->kind->reads) break;
    }
    if (!got || (got < 0 && errno != EAGAIN)) { drop(c, &c->kind->closed); return; }
  }
  if (events & EPOLLRDHUP) drop(c, &c->kind->closed);
}

int main(int count, char **words)
{
  if (count != 7) { fprintf(stderr, "usage: flood_gun SOURCE PORT CONNECTIONS FRAMES_PER_SECOND SECONDS FILE\n"); return 2; }
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
    for (int i = 0; i < ready; i++) {
      struct connection *c = events[i].data.ptr;
      if (c->fd >= 0) hear(c, events[i].events);
    }
    double t = now();
    tokens += (t - last) * rate;
    if (tokens > rate / 10) tokens = rate / 10;
    last = t;
    int opened = 0;
    for (int looked = 0; looked < connections && tokens >= 1; looked++, at = (at + 1) % connections) {
      struct connection *c = &all[at];
      if (c->fd < 0) {
        if (t >= c->again_at && opened < AT_ONCE) { begin(c); opened++; }
      } else if (c->is_open && !c->is_blocked)
        tokens -= shoot(c);
    }
  }
  double took = now() - begun;
  for (int i = 0; i < kind_count; i++)
    printf("{\"kind\": %d, \"opened\": %lu, \"refused\": %lu, \"closed\": %lu, \"failed\": %lu, \"sent\": %lu, \"bytes\": %lu, \"seconds\": %.3f}\n",
           i, kinds[i].opened, kinds[i].refused, kinds[i].closed, kinds[i].failed, kinds[i].sent, kinds[i].bytes, took);
  return 0;
}
