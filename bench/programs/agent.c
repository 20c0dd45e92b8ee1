// SPDX-License-Identifier: Apache-2.0
// The first process of a benchmark guest, and natively the same program: reads commands from its standard input, one a line, runs each
// by /bin/sh and answers on descriptor 3, a copy of its standard output (the serial line). A line is "MODE COMMAND": with MODE "whole"
// this program marks beginning (B) and end (E) around the command; with "self" the command does so itself. Then follows
// "R STATUS LENGTH HASH", the exit status and the 64-bit FNV-1a hash of what the command wrote to its standard output.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static void say(const char *text) {
  for (size_t left = strlen(text); left;) {
    ssize_t done = write(3, text, left);
    if (done < 0 && errno != EINTR) _exit(3);
    if (done > 0) text += done, left -= done;
  }
}

static void set_up_guest(void) {
  mkdir("/dev/shm", 0777);
  mount("shm", "/dev/shm", "tmpfs", 0, 0);
  if (mount("tmp", "/tmp", "tmpfs", 0, "mode=1777")) perror("/tmp");
  setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
  setenv("HOME", "/root", 1);
  setenv("BENCH_GUEST", "1", 1);
  int tty = open("/dev/ttyS0", O_RDWR);
  if (tty < 0) perror("/dev/ttyS0");
  struct termios t;
  tcgetattr(tty, &t);
  cfmakeraw(&t);
  cfsetspeed(&t, B115200);
  tcsetattr(tty, TCSANOW, &t);
  dup2(tty, 0), dup2(tty, 1), dup2(tty, 2);
}

static int read_line(char *line, int size) {
  int n = 0;
  for (char c; n < size - 1;) {
    ssize_t got = read(0, &c, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return -1;
    if (c == '\n') break;
    line[n++] = c;
  }
  line[n] = 0;
  return n;
}

static void report(int status) {
  static unsigned char buffer[65536];
  char text[600];
  uint64_t hash = 0xcbf29ce484222325u, length = 0;
  int fd = open("/tmp/out", O_RDONLY);
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0; length += got)
    for (ssize_t i = 0; i < got; i++) hash = (hash ^ buffer[i]) * 0x100000001b3u;
  close(fd);
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  if (code && code != 77) {  // the end of what it complained about
    fd = open("/tmp/err", O_RDONLY);
    off_t end = lseek(fd, 0, SEEK_END);
    ssize_t got = pread(fd, text, 400, end > 400 ? end - 400 : 0);
    close(fd);
    for (ssize_t i = 0; i < got; i++)
      if (text[i] < ' ') text[i] = '|';
    text[got > 0 ? got : 0] = 0;
    say("! "), say(text), say("\n");
  }
  snprintf(text, sizeof text, "R %d %llu %016llx\n", code, (unsigned long long)length, (unsigned long long)hash);
  say(text);
}

int main(void) {
  static char line[8192];
  int first = getpid() == 1;
  if (first) set_up_guest();
  dup2(1, 3);
  say("agent ready\n");
  while (read_line(line, sizeof line) >= 0) {
    char *command = strchr(line, ' ');
    if (!command) continue;
    *command++ = 0;
    if (!strcmp(line, "stop")) break;
    int whole = !strcmp(line, "whole");
    unlink("/tmp/out"), unlink("/tmp/err");
    if (whole) say("B\n");
    pid_t pid = fork();
    if (pid == 0) {
      close(0), open("/dev/null", O_RDONLY);
      dup2(open("/tmp/out", O_CREAT | O_TRUNC | O_WRONLY, 0600), 1);
      dup2(open("/tmp/err", O_CREAT | O_TRUNC | O_WRONLY, 0600), 2);
      if (chdir("/tmp")) _exit(126);
      execl("/bin/sh", "sh", "-c", command, (char *)0);
      _exit(127);
    }
    int status = 127 << 8;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    if (whole) say("E\n");
    while (first && waitpid(-1, 0, WNOHANG) > 0) {}  // orphans
    report(status);
  }
  if (first) sync(), reboot(RB_POWER_OFF);
  return 0;
}
