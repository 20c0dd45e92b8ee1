// SPDX-License-Identifier: Apache-2.0
#include "softkvm/native/stub_filter.h"

#include <asm/prctl.h>
#include <linux/audit.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "softkvm/native/stub_image.h"

namespace vireo::softkvm {
namespace {

// A program that is a row of cases: each is a number of tests, and a verdict where all of them hold.
class Cases {
 public:
  struct Test {
    uint32_t at;                        // offset in seccomp_data, of 32 bits
    std::initializer_list<uint32_t> values;  // one of these
  };
  void add(std::initializer_list<Test> tests, uint32_t verdict) {
    std::vector<size_t> misses;
    for (const Test& test : tests) {
      program_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, test.at));
      size_t left = test.values.size();
      for (uint32_t value : test.values) {
        left--;
        // Equal: over the other comparisons of this test. The last one's miss ends the case.
        program_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, static_cast<uint8_t>(left), 0));
        if (!left) misses.push_back(program_.size() - 1);
      }
    }
    program_.push_back(BPF_STMT(BPF_RET | BPF_K, verdict));
    for (size_t at : misses) program_[at].jf = static_cast<uint8_t>(program_.size() - at - 1);
  }
  std::vector<sock_filter> otherwise(uint32_t verdict) {
    program_.push_back(BPF_STMT(BPF_RET | BPF_K, verdict));
    return std::move(program_);
  }

 private:
  std::vector<sock_filter> program_;
};

constexpr uint32_t kNumber = offsetof(seccomp_data, nr), kArch = offsetof(seccomp_data, arch), kIp = offsetof(seccomp_data, instruction_pointer), kIpHigh = kIp + 4;
constexpr uint32_t low(unsigned argument) { return static_cast<uint32_t>(offsetof(seccomp_data, args) + argument * 8); }
constexpr uint32_t high(unsigned argument) { return low(argument) + 4; }

void add_stop(Cases& cases, uint32_t verdict) {
  cases.add({{kIp, {stub_places().stop_call}}, {kIpHigh, {0}}, {kArch, {AUDIT_ARCH_X86_64}}, {kNumber, {SYS_prctl}}, {low(0), {PR_SET_SYSCALL_USER_DISPATCH}}, {high(0), {0}},
             {low(1), {PR_SYS_DISPATCH_OFF}}, {high(1), {0}}},
            verdict);
}

}  // namespace

std::vector<sock_filter> stop_filter() {
  Cases cases;
  add_stop(cases, SECCOMP_RET_USER_NOTIF);
  return cases.otherwise(SECCOMP_RET_ALLOW);
}

std::vector<sock_filter> stub_filter() {
  Cases cases;
  add_stop(cases, SECCOMP_RET_ALLOW);  // the other filter has the say
  cases.add({{kIp, {stub_places().list_call}}, {kIpHigh, {0}}, {kArch, {AUDIT_ARCH_X86_64}}, {kNumber, {SYS_mmap, SYS_munmap, SYS_mprotect}}}, SECCOMP_RET_ALLOW);
  cases.add({{kIp, {stub_places().list_call}}, {kIpHigh, {0}}, {kArch, {AUDIT_ARCH_X86_64}}, {kNumber, {SYS_arch_prctl}}, {low(0), {ARCH_SET_FS, ARCH_SET_GS}}}, SECCOMP_RET_ALLOW);
  cases.add({{kIp, {stub_places().on_call}}, {kIpHigh, {0}}, {kArch, {AUDIT_ARCH_X86_64}}, {kNumber, {SYS_prctl}}, {low(0), {PR_SET_SYSCALL_USER_DISPATCH}}, {high(0), {0}},
             {low(1), {PR_SYS_DISPATCH_ON}}, {high(1), {0}}},
            SECCOMP_RET_ALLOW);
  return cases.otherwise(SECCOMP_RET_TRAP);
}

}  // namespace vireo::softkvm
