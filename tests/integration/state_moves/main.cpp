// SPDX-License-Identifier: Apache-2.0
// state_moves: guests that are stopped at random moments and go on in a new VM made from what KVM_GET_* said.
//
//   state_moves linux KERNEL INITRD CPUS MOVES MEAN_MICROSECONDS SEED   boots Linux; each stretch is a process of its own
//   state_moves integer MOVES SEED                                      a small guest, softkvm -> /dev/kvm -> softkvm
//
// Lines of the guest's console that begin with "RESULT" are its result: the moved guest's must be those of one that was left alone.
#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "integer_guest.h"
#include "linux_machine.h"

extern char** environ;

namespace vireo::moves {
namespace {

constexpr size_t kRamSize = 256 << 20;
constexpr uint64_t kLimitMicroseconds = 600'000'000;  // for a stretch in which the guest is to end
constexpr int kMoved = 10;                           // a stretch's exit status: there is more to come
// reboot=t: the guest ends by a triple fault.
constexpr char kCommandLine[] = "console=ttyS0 reboot=t panic=-1 pci=off";

std::vector<uint8_t> read_all(int fd) {
  struct stat info;
  if (fstat(fd, &info) != 0) die("fstat: %s", strerror(errno));
  std::vector<uint8_t> bytes(static_cast<size_t>(info.st_size));
  if (pread(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) die("reading a file: %s", strerror(errno));
  return bytes;
}

// What a VM restored from `saved` says at once must be the same, time aside.
void compare(const SavedVm& saved, const SavedVm& now) {
  auto same = [](const char* what, size_t cpu, const void* a, const void* b, size_t size) {
    const auto *x = static_cast<const uint8_t*>(a), *y = static_cast<const uint8_t*>(b);
    for (size_t i = 0; i < size; i++)
      if (x[i] != y[i]) die("vcpu %zu: %s was restored wrongly: byte %zu is %02x, was %02x", cpu, what, i, y[i], x[i]);
  };
  for (size_t i = 0; i < saved.vcpus.size(); i++) {
    const SavedVcpu &a = saved.vcpus[i], &b = now.vcpus[i];
    same("regs", i, &a.regs, &b.regs, sizeof a.regs);
    same("sregs2", i, &a.sregs, &b.sregs, sizeof a.sregs);
    same("xsave", i, a.xsave.data(), b.xsave.data(), a.xsave.size() * 4);
    same("xcrs", i, &a.xcrs, &b.xcrs, sizeof a.xcrs);
    same("debugregs", i, &a.debugregs, &b.debugregs, sizeof a.debugregs);
    same("vcpu_events", i, &a.events, &b.events, sizeof a.events);
    same("mp_state", i, &a.mp_state, &b.mp_state, sizeof a.mp_state);
    kvm_lapic_state x = a.lapic, y = b.lapic;
    uint32_t timer;
    memcpy(&timer, x.regs + 0x320, 4);
    memset(x.regs + 0x390, 0, 4), memset(y.regs + 0x390, 0, 4);  // the timer's current count
    // The timer may have fired by now.
    const size_t irr = 0x200 + (timer & 0xff) / 32 * 16 + (timer & 31) / 8;
    y.regs[irr] = static_cast<char>((y.regs[irr] & ~(1 << (timer & 7))) | (x.regs[irr] & 1 << (timer & 7)));
    same("lapic", i, &x, &y, sizeof x);
    for (size_t m = 0; m < a.msrs.size(); m++) {
      const kvm_msr_entry &x = a.msrs[m], &y = b.msrs[m];
      if (x.index != y.index) die("vcpu %zu: the list of MSRs has changed", i);
      const bool time = x.index == 0x10 || (x.index == 0x6e0 && y.data == 0);
      if (x.data != y.data && !time)
        die("vcpu %zu: MSR %#x was restored wrongly: %#llx, was %#llx", i, x.index, static_cast<unsigned long long>(y.data),
            static_cast<unsigned long long>(x.data));
    }
    // No vCPU has seen a later time than when the first one was saved: all had stopped. They may be given one offset.
    const uint64_t tsc_before = saved.vcpus[0].msrs[0].data, tsc_now = b.msrs[0].data;
    if (a.msrs[0].index == 0x10 && tsc_now < tsc_before) die("vcpu %zu: its time stamp counter went back by %llu", i,
                                                            static_cast<unsigned long long>(tsc_before - tsc_now));
  }
  if (now.clock.clock < saved.clock.clock) die("the VM's clock went back");
  same("the IOAPIC's redirection table", 0, saved.chips[2].chip.ioapic.redirtbl, now.chips[2].chip.ioapic.redirtbl, sizeof saved.chips[2].chip.ioapic.redirtbl);
  for (int i = 0; i < 2; i++) {
    const kvm_pic_state &x = saved.chips[i].chip.pic, &y = now.chips[i].chip.pic;
    if (x.imr != y.imr || x.isr != y.isr || x.irq_base != y.irq_base || x.init_state != y.init_state || x.elcr != y.elcr)
      die("PIC %d was restored wrongly", i);
  }
}

struct Options {
  std::string kernel, initrd;
  unsigned cpus;
};

// One stretch, in a process of its own: from the boot or from the state in `state_fd` on.
int stretch(const Options& options, int ram_fd, int state_fd, const LinuxMachine::Stop& stop) {
  LinuxMachine machine(*kvm::soft_api(), ram_fd, STDOUT_FILENO, options.cpus);
  std::vector<uint8_t> bytes = read_all(state_fd);
  if (bytes.empty()) {
    machine.boot(options.kernel, options.initrd, kCommandLine);
  } else {
    SavedVm saved = from_bytes(bytes);
    machine.restore(saved);
    compare(saved, machine.save());
  }
  if (machine.run(stop)) return 0;
  bytes = to_bytes(machine.save());
  if (ftruncate(state_fd, 0) != 0 || pwrite(state_fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    die("writing the state: %s", strerror(errno));
  return kMoved;
}

// A file that a new process inherits.
int shared_file(const char* name, size_t size, int flags) {
  int fd = memfd_create(name, 0);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) die("memfd_create: %s", strerror(errno));
  if (flags) fcntl(fd, F_SETFL, flags);
  return fd;
}

struct Outcome {
  std::string console;
  unsigned moves = 0;
};

std::string tail(const std::string& text) { return text.size() > 3000 ? text.substr(text.size() - 3000) : text; }

Outcome boot(const Options& options, unsigned moves, uint64_t mean, uint64_t seed) {
  const int ram = shared_file("guest RAM", kRamSize, 0), state = shared_file("state", 0, 0), console = shared_file("console", 0, O_APPEND);
  std::mt19937_64 random(seed);
  Outcome outcome;
  for (;;) {
    LinuxMachine::Stop stop{kLimitMicroseconds, ~0ull, true};
    if (outcome.moves < moves) {
      stop.failed_if_late = false;
      // Most stretches end at a random time, some at once, some with a device access just answered.
      switch (random() % 8) {
        case 0: stop.microseconds = random() % 300; break;
        case 1:
        case 2: stop.microseconds = 4 * mean, stop.exits = 1 + random() % 200; break;
        default: stop.microseconds = random() % (2 * mean); break;
      }
    }
    std::string arguments[] = {"state_moves", "stretch", options.kernel, options.initrd, std::to_string(options.cpus), std::to_string(ram),
                               std::to_string(state), std::to_string(stop.microseconds), std::to_string(stop.exits),
                               std::to_string(stop.failed_if_late)};
    char* argv[std::size(arguments) + 1] = {};
    for (size_t i = 0; i < std::size(arguments); i++) argv[i] = arguments[i].data();
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, console, STDOUT_FILENO);
    pid_t child;
    if (int error = posix_spawn(&child, "/proc/self/exe", &actions, nullptr, argv, environ)) die("a new process: %s", strerror(error));
    posix_spawn_file_actions_destroy(&actions);
    int status;
    while (waitpid(child, &status, 0) < 0)
      if (errno != EINTR) die("waitpid: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == kMoved) {
      outcome.moves++;
      continue;
    }
    std::vector<uint8_t> said = read_all(console);
    outcome.console.assign(said.begin(), said.end());
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      fprintf(stderr, "%s\n", tail(outcome.console).c_str());
      if (WIFSIGNALED(status)) die("after %u moves (seed %llu): signal %d", outcome.moves, static_cast<unsigned long long>(seed), WTERMSIG(status));
      die("after %u moves (seed %llu): exit status %d", outcome.moves, static_cast<unsigned long long>(seed), WEXITSTATUS(status));
    }
    break;
  }
  for (int fd : {ram, state, console}) close(fd);
  return outcome;
}

std::string results(const std::string& console) {
  std::string out;
  for (size_t at = 0; at < console.size();) {
    size_t end = std::min(console.find('\n', at), console.size());
    std::string line = console.substr(at, end - at);
    std::erase(line, '\r');
    if (line.starts_with("RESULT")) out += line + "\n";
    at = end + 1;
  }
  return out;
}

// What a kernel says when time, memory or a CPU is not what it should be.
void look_for_complaints(const std::string& console) {
  for (const char* word : {"BUG:", "WARNING:", "Oops", "Call Trace", "rcu_preempt detected", "soft lockup", "unstable", "Kernel panic", "segfault",
                           "spurious", "nobody cared", "general protection", "CPU stuck", "timed out", "failed to start"}) {
    if (size_t at = console.find(word); at != std::string::npos) {
      fprintf(stderr, "%s\n", tail(console.substr(0, at + 2000)).c_str());
      die("the guest's kernel complains: %s", word);
    }
  }
}

int move_linux(const Options& options, unsigned moves, uint64_t mean, uint64_t seed) {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  printf("linux, %u vCPUs, seed %llu\n", options.cpus, static_cast<unsigned long long>(seed));
  Outcome alone = boot(options, 0, mean, seed);
  const std::string wanted = results(alone.console);
  look_for_complaints(alone.console);
  if (wanted.find("RESULT cpus " + std::to_string(options.cpus)) == std::string::npos || wanted.find("RESULT end") == std::string::npos) {
    fprintf(stderr, "%s\n", tail(alone.console).c_str());
    die("left alone, the guest did not get to its end");
  }
  Outcome moved = boot(options, moves, mean, seed);
  const std::string got = results(moved.console);
  if (got != wanted) {
    fprintf(stderr, "%s\nleft alone:\n%smoved:\n%s", tail(moved.console).c_str(), wanted.c_str(), got.c_str());
    die("the moved guest's result is another (seed %llu)", static_cast<unsigned long long>(seed));
  }
  look_for_complaints(moved.console);
  printf("linux, %u vCPUs: %u moves, the result is the same: %zu lines\n", options.cpus, moved.moves, static_cast<size_t>(std::count(got.begin(), got.end(), '\n')));
  if (moved.moves < moves) die("the guest ended after %u moves, %u were wanted", moved.moves, moves);
  return 0;
}

}  // namespace
}  // namespace vireo::moves

int main(int argc, char** argv) {
  using namespace vireo::moves;
  auto number = [&](int i) { return strtoull(argv[i], nullptr, 0); };
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "linux" && argc == 8)
    return move_linux({argv[2], argv[3], static_cast<unsigned>(number(4))}, static_cast<unsigned>(number(5)), number(6), number(7));
  if (what == "stretch" && argc == 10)
    return stretch({argv[2], argv[3], static_cast<unsigned>(number(4))}, static_cast<int>(number(5)), static_cast<int>(number(6)),
                   {number(7), number(8), number(9) != 0});
  if (what == "integer" && argc == 4) return move_integer_guest(static_cast<unsigned>(number(2)), number(3));
  fprintf(stderr, "state_moves linux KERNEL INITRD CPUS MOVES MEAN_MICROSECONDS SEED | integer MOVES SEED\n");
  return 2;
}
