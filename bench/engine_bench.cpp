// SPDX-License-Identifier: Apache-2.0
// What the engine costs: the same machine code run natively and on softkvm in turn, medians and ratios, and the cost of leaving. One
// process, one thread; processor time. Prints a table.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

#include "softkvm/translate/engine.h"
#include "softkvm/translate/test_machine.h"

using namespace vireo::softkvm;

namespace {

// Each is called with rdi = a data area both sides have at the same address, and ends by RET; they keep to caller-saved registers.
GUEST_CODE(alu, "mov ecx, 20000000; xor eax, eax; mov edx, 3; 1: add eax, edx; xor edx, eax; rol eax, 3; lea esi, [rax + rdx]; sub ecx, 1; jnz 1b; ret")
GUEST_CODE(branches, "mov ecx, 10000000; mov eax, 12345; 1: imul eax, eax, 1103515245; add eax, 12345; test eax, 0x10000; jz 2f; inc edx; 2: test eax, 0x20000; jz 3f; dec edx; 3: sub ecx, 1; jnz 1b; ret")
GUEST_CODE(loads, "mov ecx, 5000000; 1: mov rax, [rdi]; mov rdx, [rdi + 8]; mov rsi, [rdi + 128]; mov r8, [rdi + 256]; sub ecx, 1; jnz 1b; ret")
GUEST_CODE(stores, "mov ecx, 5000000; 1: mov [rdi], rax; mov [rdi + 8], rdx; mov [rdi + 128], rsi; mov [rdi + 256], r8; sub ecx, 1; jnz 1b; ret")
GUEST_CODE(chase, "mov ecx, 5000000; mov [rdi], rdi; mov rax, rdi; 1: mov rax, [rax]; mov rax, [rax]; mov rax, [rax]; mov rax, [rax]; sub ecx, 1; jnz 1b; ret")
GUEST_CODE(calls, "mov ecx, 10000000; 1: call 2f; sub ecx, 1; jnz 1b; ret; 2: ret")
GUEST_CODE(sse, "mov ecx, 10000000; pxor xmm0, xmm0; movsd xmm1, [rdi]; 1: addsd xmm0, xmm1; mulsd xmm0, xmm1; addpd xmm2, xmm0; sub ecx, 1; jnz 1b; ret")
GUEST_CODE(locked, "mov ecx, 2000000; 1: lock inc qword ptr [rdi]; sub ecx, 1; jnz 1b; ret")
GUEST_CODE(movs, "mov edx, 50000; mov r8, rdi; 1: mov rdi, r8; lea rsi, [r8 + 8192]; mov ecx, 4096; rep movsb; sub edx, 1; jnz 1b; ret")
// Of which many copies are called once each: a branch that is taken, one that is not, a stack frame, loads and a store.
GUEST_CODE(cold, "push rbx; mov rbx, rdi; mov rax, [rdi + 8]; add rax, [rdi + 16]; test rbx, rbx; jnz 1f; xor eax, eax; ud2; "
                 "1: mov [rdi + 24], rax; cmp eax, 12345; je 2f; lea rdx, [rax + rbx]; add rdx, 3; pop rbx; ret; 2: ud2")
GUEST_CODE(start, "call rax; hlt")
GUEST_CODE(out_loop, "1: out 0x80, al; jmp 1b")
GUEST_CODE(cpuid_loop, "mov r8d, 200000; 1: xor eax, eax; cpuid; dec r8d; jnz 1b; ret")

// The thread's own time: one thread does all, and the machine may have other work.
double seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}
double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

}  // namespace

int main() {
  TestMachine machine;
  constexpr uint64_t kNative = 0x400000;  // an address that both have: guest RAM, and a mapping of this process
  auto* page = static_cast<uint8_t*>(mmap(reinterpret_cast<void*>(0x20000000), 1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
  if (page == MAP_FAILED) return perror("mmap"), 1;
  struct Row {
    const char* name;
    std::span<const uint8_t> code;
  } rows[] = {{"ALU", alu()},         {"branches", branches()}, {"L1 loads", loads()},     {"L1 stores", stores()}, {"pointer chase, L1", chase()},
              {"call and ret", calls()}, {"SSE2 double", sse()},   {"locked increment", locked()}, {"rep movsb 4 KiB", movs()}};
  printf("%-20s %10s %10s %8s\n", "", "native ms", "guest ms", "ratio");
  for (Row& row : rows) {
    memcpy(page, row.code.data(), row.code.size());
    memcpy(machine.ram + kNative, row.code.data(), row.code.size());
    machine.vm->notice_write(machine.ram + kNative, row.code.size());
    std::vector<double> native, guest;
    for (int i = 0; i < 7; i++) {
      double t0 = seconds();
      reinterpret_cast<void (*)(void*)>(page)(page + 0x8000);
      double t1 = seconds();
      machine.vcpu->gpr[kRax] = kNative;
      machine.vcpu->gpr[kRdi] = TestMachine::kData;
      machine.vcpu->gpr[kRsp] = TestMachine::kStackTop;
      machine.run(start());
      double t2 = seconds();
      native.push_back(t1 - t0), guest.push_back(t2 - t1);
    }
    printf("%-20s %10.2f %10.2f %8.2f\n", row.name, median(native) * 1e3, median(guest) * 1e3, median(guest) / median(native));
  }
  {
    constexpr unsigned kCopies = 60000, kInstructions = 13;
    const std::span<const uint8_t> one = cold();
    std::vector<uint8_t> calls, copies;
    for (unsigned i = 0; i < kCopies; i++) copies.insert(copies.end(), one.begin(), one.end());
    for (unsigned i = 0; i < kCopies; i++) {
      const uint32_t rel = static_cast<uint32_t>(kCopies * 5 + 1 + i * one.size() - (i + 1) * 5);
      calls.push_back(0xe8);
      for (unsigned b = 0; b < 4; b++) calls.push_back(static_cast<uint8_t>(rel >> 8 * b));
    }
    calls.push_back(0xc3);
    calls.insert(calls.end(), copies.begin(), copies.end());
    std::vector<double> times[2];
    uint64_t blocks = 0;
    for (int i = 0; i < 5; i++) {
      memcpy(machine.ram + kNative, calls.data(), calls.size());
      machine.vm->notice_write(machine.ram + kNative, calls.size());
      blocks = machine.vcpu->engine->counters.blocks_translated;
      for (std::vector<double>& into : times) {
        machine.vcpu->gpr[kRax] = kNative;
        machine.vcpu->gpr[kRdi] = TestMachine::kData;
        machine.vcpu->gpr[kRsp] = TestMachine::kStackTop;
        double t0 = seconds();
        machine.run(start());
        into.push_back(seconds() - t0);
      }
      blocks = machine.vcpu->engine->counters.blocks_translated - blocks;
    }
    const double first = median(times[0]) - median(times[1]);
    printf("cold code: %.2f us a block, %.0f ns a guest instruction; run again %.3f us a block\n", first / static_cast<double>(blocks) * 1e6,
           first / (kCopies * kInstructions) * 1e9, median(times[1]) / static_cast<double>(blocks) * 1e6);
  }
  std::vector<double> exits, cpuids;
  machine.run(out_loop());
  for (int i = 0; i < 7; i++) {
    double t0 = seconds();
    for (int n = 0; n < 100000; n++) machine.go();
    exits.push_back((seconds() - t0) / 100000);
  }
  printf("port exit and back   %.3f us\n", median(exits) * 1e6);
  memcpy(machine.ram + kNative, cpuid_loop().data(), cpuid_loop().size());
  machine.vm->notice_write(machine.ram + kNative, cpuid_loop().size());
  for (int i = 0; i < 7; i++) {
    machine.vcpu->gpr[kRax] = kNative;
    machine.vcpu->gpr[kRsp] = TestMachine::kStackTop;
    double t0 = seconds();
    machine.run(start());
    cpuids.push_back((seconds() - t0) / 200000);
  }
  printf("CPUID                %.3f us\n", median(cpuids) * 1e6);
}
