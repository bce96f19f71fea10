/* Which CPUs the threads of an instance run on: the fastest free ones of one kind.
 *
 * Allowed are the CPUs of the caller's affinity, so taskset and cgroups hold. A kind is a core's design (aarch64) or
 * speed; a TX2 has four A57 and two Denver 2, and a run waits for its slowest thread. Free is a CPU that no other
 * instance has claimed, in this process or another: a claim is an abstract socket name, which dies with its process
 * and leaves no file. Of two hyper-threads of a core the second comes last. */
#define _GNU_SOURCE
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine.h"

#ifndef PN_ROOT /* of /proc and /sys; another one in tests */
#define PN_ROOT ""
#endif
#define SAME_SPEED 0.85 /* of the fastest: the same kind */
#define TEXT 64

typedef struct {
  int cpu, core; /* core: the first hyper-thread of it */
  char part[TEXT];
  double speed;
  int is_free, taken;
} core_info;

static int read_line(const char *path, char *text, size_t size) {
  FILE *file = fopen(path, "r");
  const int good = file && fgets(text, (int)size, file);
  if (file) fclose(file);
  return good;
}

/* The number a text begins with; atoi and sscanf would ask for a newer glibc. */
static int number(const char *text) {
  int value = 0;
  while (*text == ' ' || *text == '\t') text++;
  for (; *text >= '0' && *text <= '9' && value < 100000000; text++) value = 10 * value + (*text - '0');
  return value;
}

static int cpu_number(int cpu, const char *name, int otherwise) {
  char path[160], text[TEXT];
  snprintf(path, sizeof path, PN_ROOT "/sys/devices/system/cpu/cpu%d/%s", cpu, name);
  return read_line(path, text, sizeof text) ? number(text) : otherwise;
}

/* The first word of a text, at most TEXT / 2 - 1 characters. */
static void copy_word(char *to, const char *text) {
  while (*text == ' ' || *text == '\t') text++;
  int length = 0;
  while (length < TEXT / 2 - 1 && text[length] > ' ') length++;
  memcpy(to, text, (size_t)length);
  to[length] = 0;
}

/* The part of every CPU, from /proc/cpuinfo: "0x41:0xd07". */
static void read_parts(core_info *cores, int n) {
  FILE *file = fopen(PN_ROOT "/proc/cpuinfo", "r");
  if (!file) return;
  char line[256], implementer[TEXT / 2] = "";
  int cpu = -1;
  while (fgets(line, sizeof line, file)) {
    const char *value = strchr(line, ':');
    if (!value) continue;
    if (!strncmp(line, "processor", 9)) cpu = number(value + 1);
    if (!strncmp(line, "CPU implementer", 15)) copy_word(implementer, value + 1);
    if (strncmp(line, "CPU part", 8)) continue;
    char part[TEXT / 2] = "";
    copy_word(part, value + 1);
    for (int i = 0; i < n; i++) {
      if (cores[i].cpu == cpu) snprintf(cores[i].part, sizeof cores[i].part, "%s:%s", implementer, part);
    }
  }
  fclose(file);
}

/* A claim on a CPU: a socket, -1 where another instance has it, -2 where claims are impossible here. */
static int claim(int cpu) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  const int length = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "pneumonia-cpu-%d", cpu);
  const int handle = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (handle < 0) return -2;
  const socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1) + (socklen_t)length;
  if (!bind(handle, (struct sockaddr *)&name, size)) return handle;
  close(handle);
  return -1;
}

static int read_cores(const cpu_set_t *allowed, core_info *cores) {
  int n = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, allowed)) continue;
    core_info *c = &cores[n++];
    *c = (core_info){.cpu = cpu};
    c->speed = cpu_number(cpu, "cpu_capacity", 0);
    if (c->speed <= 0) c->speed = cpu_number(cpu, "cpufreq/cpuinfo_max_freq", 1);
    c->core = cpu_number(cpu, "topology/thread_siblings_list", cpu);
    const int handle = claim(cpu);
    c->is_free = handle != -1;
    if (handle >= 0) close(handle);
  }
  read_parts(cores, n);
  return n;
}

static int same_kind(const core_info *a, const core_info *b) {
  const double slow = a->speed < b->speed ? a->speed : b->speed, fast = a->speed + b->speed - slow;
  return !strcmp(a->part, b->part) && slow >= SAME_SPEED * fast;
}

/* Whether the kind of `a` suits `wanted` threads better than that of `b`. */
static int better_kind(const core_info *cores, int n, const core_info *a, const core_info *b, int wanted) {
  const core_info *kinds[2] = {a, b};
  int total[2] = {0, 0}, is_free[2] = {0, 0};
  for (int k = 0; k < 2; k++) {
    for (int i = 0; i < n; i++) {
      if (!same_kind(&cores[i], kinds[k])) continue;
      total[k]++;
      is_free[k] += cores[i].is_free;
    }
  }
  const int frees = (is_free[0] >= wanted) - (is_free[1] >= wanted), room = (total[0] >= wanted) - (total[1] >= wanted);
  if (frees) return frees > 0;
  if (room) return room > 0;
  const int ours = (*a->part && strstr(TARGET_PARTS, a->part)) - (*b->part && strstr(TARGET_PARTS, b->part));
  if (ours) return ours > 0;
  if (!same_kind(a, b) && a->speed != b->speed) return a->speed > b->speed;
  return total[0] > total[1];
}

/* Place of a core in the order of use, the lowest first. */
static int place(const core_info *cores, int n, const core_info *c, const core_info *kind) {
  int sibling = 0;
  for (int i = 0; i < n; i++) sibling |= cores[i].taken && cores[i].core == c->core;
  return 4 * !same_kind(c, kind) + 2 * !c->is_free + sibling;
}

int choose_cores(int wanted, int *cpus, int *claims) {
  cpu_set_t allowed;
  core_info *cores = malloc(CPU_SETSIZE * sizeof *cores);
  const int n = cores && !sched_getaffinity(0, sizeof allowed, &allowed) ? read_cores(&allowed, cores) : 0;
  for (int i = 0; i < wanted; i++) claims[i] = -1;
  const core_info *kind = cores;
  for (int i = 1; i < n; i++) {
    if (better_kind(cores, n, &cores[i], kind, wanted)) kind = &cores[i];
  }
  int chosen = 0;
  while (chosen < wanted && chosen < n) {
    core_info *best = NULL;
    for (int i = 0; i < n; i++) {
      if (!cores[i].taken && (!best || place(cores, n, &cores[i], kind) < place(cores, n, best, kind))) best = &cores[i];
    }
    best->taken = 1;
    const int handle = claim(best->cpu);
    claims[chosen] = handle;
    cpus[chosen++] = best->cpu;
  }
  for (int i = chosen; i < wanted && chosen; i++) { /* more threads than CPUs */
    cpus[i] = cpus[i % chosen];
    claims[i] = -1;
  }
  free(cores);
  return n;
}

void release_cores(int *claims, int n) {
  for (int i = 0; i < n; i++) {
    if (claims[i] >= 0) close(claims[i]);
    claims[i] = -1;
  }
}
