// SPDX-License-Identifier: Apache-2.0
#include "kvm/probe.h"

#include <sys/mman.h>
#include <csignal>
#include <ctime>
#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>

#include "kvm/system.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"

namespace vireo::kvm {
namespace {

constexpr uint64_t kSize = 1 << 20;
constexpr uint64_t kCode = 0x10000;
constexpr uint64_t kStack = 0x20000;
constexpr uint64_t kPml4 = 0x1000, kPdpt = 0x2000, kPd = 0x3000;

// dec rcx ; add rax, 3 ; jnz back: counts down from rcx and then writes to port 0x80.
constexpr std::array<uint8_t, 12> kLoop{0x48, 0x83, 0xc0, 0x03, 0x48, 0xff, 0xc9, 0x75, 0xf7, 0xe6, 0x80, 0xf4};
constexpr int kLoopInstructions = 3;

struct Sample {
  const char* name;
  std::array<uint8_t, 12> code;
};
constexpr std::array<Sample, 4> kSamples{{
    {"cmpxchg16b", {0x48, 0x0f, 0xc7, 0x0c, 0x24, 0xe6, 0x80, 0xf4}},  // cmpxchg16b [rsp]
    {"pxor", {0x66, 0x0f, 0xef, 0xc0, 0xe6, 0x80, 0xf4}},
    {"popcnt", {0xf3, 0x48, 0x0f, 0xb8, 0xc0, 0xe6, 0x80, 0xf4}},
    {"fld1", {0xd9, 0xe8, 0xe6, 0x80, 0xf4}},
}};

kvm_segment segment(uint16_t selector, uint8_t type, bool code) {
  return {.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .db = !code, .s = 1, .l = code, .g = 1};
}

uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000ull + now.tv_nsec;
}

class Scratch {
 public:
  static Result<std::unique_ptr<Scratch>> create(const Api& api);
  ~Scratch() {
    vcpu_.reset();
    vm_.reset();
    if (memory_ != MAP_FAILED) munmap(memory_, kSize);
  }

  // Sets 64-bit CPL0 at `code`; the paging is an identity map of the first 2 MiB.
  Result<> prepare(std::span<const uint8_t> code, uint64_t rcx);
  // KVM_RUN until the port write, a failure, or the deadline; `finished` says which.
  Result<> run(uint64_t nanoseconds, bool& finished);
  Vcpu& vcpu() { return *vcpu_; }

 private:
  void* memory_ = MAP_FAILED;
  std::unique_ptr<System> system_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Vcpu> vcpu_;
};

Result<std::unique_ptr<Scratch>> Scratch::create(const Api& api) {
  auto s = std::make_unique<Scratch>();
  s->memory_ = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (s->memory_ == MAP_FAILED) return fail_errno("probe memory");
  s->system_ = TRY(System::open(api));
  s->vm_ = TRY(s->system_->create_vm());
  TRY_VOID(s->vm_->set_tss_address(0xfffbd000));
  TRY_VOID(s->vm_->set_memory(0, 0, kSize, s->memory_));
  s->vcpu_ = TRY(s->vm_->create_vcpu(0));
  auto cpuid = TRY(s->system_->supported_cpuid());
  TRY_VOID(s->vcpu_->set_cpuid(cpuid));
  return s;
}

Result<> Scratch::prepare(std::span<const uint8_t> code, uint64_t rcx) {
  auto* base = static_cast<uint8_t*>(memory_);
  memset(base, 0, kSize);
  memcpy(base + kCode, code.data(), code.size());
  uint64_t entry = kPdpt | 3;
  memcpy(base + kPml4, &entry, 8);
  entry = kPd | 3;
  memcpy(base + kPdpt, &entry, 8);
  entry = 0x83;
  memcpy(base + kPd, &entry, 8);
  kvm_sregs sregs = TRY(vcpu_->sregs());
  sregs.cs = segment(8, 11, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = segment(16, 3, false);
  sregs.cr3 = kPml4;
  sregs.cr4 = 0x620;  // PAE, OSFXSR, OSXMMEXCPT
  sregs.cr0 = 0x80000033;
  sregs.efer = 0x500;
  TRY_VOID(vcpu_->set_sregs(sregs));
  kvm_regs regs{};
  regs.rip = kCode;
  regs.rsp = kStack;
  regs.rcx = rcx;
  regs.rflags = 2;
  return vcpu_->set_regs(regs);
}

thread_local volatile uint8_t* t_immediate_exit = nullptr;
thread_local void (*t_interrupt)() = nullptr;

void on_alarm(int) {
  if (t_immediate_exit) *t_immediate_exit = 1;
  if (t_interrupt) t_interrupt();
}

Result<> Scratch::run(uint64_t nanoseconds, bool& finished) {
  const int signal = SIGRTMIN + 2;
  struct sigaction action {}, before {};
  action.sa_handler = on_alarm;
  action.sa_flags = SA_ONSTACK;
  sigaction(signal, &action, &before);
  t_immediate_exit = &vcpu_->run_page().immediate_exit;
  t_interrupt = vcpu_->api().interrupt_this_thread;
  *t_immediate_exit = 0;
  uint64_t deadline = now_ns() + nanoseconds;
  pthread_t self = pthread_self();
  std::atomic<bool> done = false;
  // Signals once at the deadline and again every 20 ms, should the first fall between two runs.
  std::jthread alarm([&done, self, deadline, signal] {
    while (!done) {
      uint64_t now = now_ns();
      if (now >= deadline) pthread_kill(self, signal);
      uint64_t wait = now < deadline ? std::min<uint64_t>(deadline - now, 1'000'000) : 20'000'000;
      timespec pause{0, static_cast<long>(wait)};
      nanosleep(&pause, nullptr);
    }
  });
  finished = false;
  int code;
  do code = vcpu_->run();
  while (code == EINTR && now_ns() < deadline);
  kvm_run& run = vcpu_->run_page();
  finished = code == 0 && run.exit_reason == KVM_EXIT_IO && run.io.port == 0x80;
  done = true;
  alarm.join();
  t_immediate_exit = nullptr;
  t_interrupt = nullptr;
  sigaction(signal, &before, nullptr);
  if (code != 0 && code != EINTR) return fail_errno("probe: KVM_RUN", code);
  return {};
}

}  // namespace

std::string ProbeResult::reason() const {
  char text[200];
  if (!missing.empty())
    snprintf(text, sizeof text, "cannot run %s in guest kernel mode", missing.c_str());
  else
    snprintf(text, sizeof text, "guest kernel code runs at %.1f million instructions a second", million_per_second);
  return text;
}

Result<ProbeResult> probe(const Api& api) {
  auto scratch = TRY(Scratch::create(api));
  ProbeResult result;
  constexpr uint64_t kTurns = 1ull << 40;  // not to be reached
  constexpr uint64_t kTime = 20'000'000;
  TRY_VOID(scratch->prepare(kLoop, kTurns));
  uint64_t start = now_ns();
  bool finished;
  TRY_VOID(scratch->run(kTime, finished));
  uint64_t spent = now_ns() - start;
  auto regs = TRY(scratch->vcpu().regs());
  double turns = static_cast<double>(kTurns - regs.rcx);
  result.million_per_second = turns * kLoopInstructions / (static_cast<double>(spent) / 1000.0);
  for (const Sample& sample : kSamples) {
    TRY_VOID(scratch->prepare(sample.code, 0));
    TRY_VOID(scratch->run(kTime, finished));
    if (finished) continue;
    if (!result.missing.empty()) result.missing += ",";
    result.missing += sample.name;
    // After an internal error a VM need not be usable again.
    scratch.reset();
    scratch = TRY(Scratch::create(api));
  }
  return result;
}

}  // namespace vireo::kvm
