// SPDX-License-Identifier: Apache-2.0
// Runs the guest tests of this folder on softkvm, on /dev/kvm, or as functions of this process, the same image in all three. In a guest a group
// runs in 64-bit mode at CPL 3 and tells its result by a store to an address with no memory.
// Usage: guest_tests --on softkvm|kvm|host [--break-one]. Lines: PASS, FAIL or SKIP and a name. Exit status: 0 all passed or skipped, 1 failed,
// 77 nothing could run, 2 usage.
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "softkvm/softkvm.h"

struct Group {
  int64_t entry;  // relative to this member
  uint64_t needs;
  int64_t name;   // relative to this member
};
extern "C" const Group __start_guest_table[], __stop_guest_table[];
extern "C" const uint8_t guest_anchor[], __stop_guest_text[], guest_break_here[], guest_trap[];

namespace {

constexpr uint64_t kRam = 4 << 20, kCode = 0x100000, kStart = 0x80000, kStackTop = 0x300000, kResult = 0x10000000;
// For groups at CPL 0: descriptors, and memory at other addresses (guest.inc names them too).
constexpr uint64_t kGdt = 0x5000, kIdt = 0x6000, kGates = 0x8000, kTss = 0x4000;
constexpr uint64_t kPrivileged = 0x100, kProbe = 0x8000, kAbilities = 0x1e00;

// The reason why a group cannot run on this CPU, or null.
const char* missing(uint64_t needs) {
  if (needs & 1 && !(__builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))) return "BMI2";
  if (needs & 2 && !__builtin_cpu_supports("avx2")) return "AVX2";
  if (needs & 4 && !__builtin_cpu_supports("avx512f")) return "AVX-512";
  return nullptr;
}

const char* ability(uint64_t need) {
  switch (need) {
    case 0x200: return "SSE and x87 at CPL 0";
    case 0x400: return "SYSCALL";
    case 0x800: return "INT n";
    default: return "LAR and VERR";
  }
}

// Descriptor tables, a gate for every vector that leads to guest_trap, and pages with fewer rights. Formats: Intel SDM vol 3, 3.4.5, 6.14.1, 7.2.3.
void set_up_privileged(uint8_t* ram, kvm_sregs& s) {
  const uint64_t gdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff,
                          0x0000890000000067 | (kTss & 0xffffff) << 16, 0};
  memcpy(ram + kGdt, gdt, sizeof gdt);
  ram[kGdt + 0x35] = 0x8b;  // busy
  memcpy(ram + kTss + 4, &kStackTop, 8);
  const uint64_t common = kCode + static_cast<uint64_t>(guest_trap - guest_anchor);
  for (unsigned v = 0; v < 256; v++) {
    const bool has_error = v == 8 || (v >= 10 && v <= 14) || v == 17 || v == 21;
    const uint64_t at = kGates + v * 16;
    uint8_t* p = ram + at;
    if (!has_error) *p++ = 0x6a, *p++ = 0;  // push 0
    *p++ = 0x68;                            // push VECTOR
    memcpy(p, &v, 4), p += 4;
    *p++ = 0xe9;  // jmp
    const auto rel = static_cast<int32_t>(common - (static_cast<uint64_t>(p - ram) + 4));
    memcpy(p, &rel, 4);
    const uint64_t gate[] = {(at & 0xffff) | 8 << 16 | 0xee00ull << 32 | (at >> 16) << 48, 0};
    memcpy(ram + kIdt + v * 16, gate, sizeof gate);
  }
  auto* directory = reinterpret_cast<uint64_t*>(ram + 0x3000);
  directory[300] = 0x200000 | 0x85;
  directory[301] = 0x200000 | 0x87 | 1ull << 63;
  for (kvm_segment* segment : {&s.cs, &s.ds, &s.es, &s.ss, &s.fs, &s.gs}) segment->dpl = 0, segment->selector = 0x10;
  s.cs.selector = 8;
  s.tr = {.base = kTss, .limit = 0x67, .selector = 0x30, .type = 11, .present = 1, .dpl = 0, .db = 0, .s = 0, .l = 0, .g = 0, .avl = 0, .unusable = 0, .padding = 0};
  s.gdt = {.base = kGdt, .limit = 0x3f, .padding = {}};
  s.idt = {.base = kIdt, .limit = 0xfff, .padding = {}};
  s.efer |= 1;  // SCE
}

struct Abi {
  int (*open)();
  int (*ioctl)(int, unsigned long, uintptr_t);
  int (*close)(int);
};
int kernel_open() {
  int fd = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}
int kernel_ioctl(int fd, unsigned long request, uintptr_t argument) {
  int r = ::ioctl(fd, request, argument);
  return r < 0 ? -errno : r;
}
const Abi kKernel{kernel_open, kernel_ioctl, ::close};
const Abi kSoft{vireo::softkvm::open_system, vireo::softkvm::ioctl, vireo::softkvm::close};

// One group in a VM of its own. >= 0: its result; -1 with `why`.
int64_t run_in_guest(const Abi& abi, std::vector<uint8_t> image, uint64_t entry, bool privileged, std::string& why) {
  std::vector<int> open;
  auto call = [&](int fd, unsigned long request, auto argument, const char* what) {
    int r = abi.ioctl(fd, request, (uintptr_t)argument);
    if (r < 0 && why.empty()) why = std::string(what) + ": " + strerror(-r);
    return r;
  };
  auto finish = [&](int64_t result) {
    for (size_t i = open.size(); i-- > 0;) abi.close(open[i]);
    return result;
  };
  int system = abi.open();
  if (system < 0) return why = "cannot open", -1;
  open.push_back(system);
  int vm = call(system, KVM_CREATE_VM, 0, "KVM_CREATE_VM");
  if (vm < 0) return finish(-1);
  open.push_back(vm);
  auto* ram = static_cast<uint8_t*>(mmap(nullptr, kRam, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  memcpy(ram + kCode, image.data(), image.size());
  // call entry; mov rdi, kResult; mov [rdi], rax; jmp $
  uint8_t start[] = {0xe8, 0, 0, 0, 0, 0x48, 0xbf, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0x89, 0x07, 0xeb, 0xfe};
  int32_t rel = static_cast<int32_t>(kCode + entry - (kStart + 5));
  memcpy(start + 1, &rel, 4);
  memcpy(start + 7, &kResult, 8);
  memcpy(ram + kStart, start, sizeof start);
  auto* tables = reinterpret_cast<uint64_t*>(ram + 0x1000);
  tables[0] = 0x2007;
  tables[512] = 0x3007;
  for (uint64_t i = 0; i < 512; i++) tables[1024 + i] = i << 21 | 0x87;
  kvm_userspace_memory_region region{0, 0, 0, kRam, reinterpret_cast<uint64_t>(ram)};
  if (call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION") < 0) return finish(-1);
  int vcpu = call(vm, KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU");
  if (vcpu < 0) return finish(-1);
  open.push_back(vcpu);
  std::vector<uint8_t> cpuid_bytes(sizeof(kvm_cpuid2) + 256 * sizeof(kvm_cpuid_entry2));
  auto* cpuid = reinterpret_cast<kvm_cpuid2*>(cpuid_bytes.data());
  cpuid->nent = 256;
  if (call(system, KVM_GET_SUPPORTED_CPUID, cpuid, "KVM_GET_SUPPORTED_CPUID") < 0 || call(vcpu, KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2") < 0) return finish(-1);
  kvm_sregs s{};
  if (call(vcpu, KVM_GET_SREGS, &s, "KVM_GET_SREGS") < 0) return finish(-1);
  kvm_segment flat{};
  flat.limit = 0xffffffff, flat.selector = 0x2b, flat.type = 3, flat.present = 1, flat.dpl = 3, flat.db = 1, flat.s = 1, flat.g = 1;
  s.ds = s.es = s.ss = s.fs = s.gs = flat;
  s.cs = flat;
  s.cs.selector = 0x33, s.cs.type = 11, s.cs.db = 0, s.cs.l = 1;
  s.cr0 = 0x80010033, s.cr3 = 0x1000, s.cr4 = 0x620, s.efer = 0xd00;
  kvm_xcrs xcrs{};
  bool xsave = false;
  for (unsigned i = 0; i < cpuid->nent; i++)
    if (cpuid->entries[i].function == 0xd && cpuid->entries[i].index == 0) {
      xsave = true;
      xcrs.nr_xcrs = 1;
      xcrs.xcrs[0].value = cpuid->entries[i].eax & 0xe7;
    }
  if (xsave) s.cr4 |= 1 << 18;
  if (privileged) set_up_privileged(ram, s);
  if (call(vcpu, KVM_SET_SREGS, &s, "KVM_SET_SREGS") < 0) return finish(-1);
  if (xsave && call(vcpu, KVM_SET_XCRS, &xcrs, "KVM_SET_XCRS") < 0) return finish(-1);
  kvm_regs r{};
  r.rip = kStart, r.rsp = kStackTop, r.rflags = 2;
  if (call(vcpu, KVM_SET_REGS, &r, "KVM_SET_REGS") < 0) return finish(-1);
  int size = call(system, KVM_GET_VCPU_MMAP_SIZE, 0, "KVM_GET_VCPU_MMAP_SIZE");
  auto* run = static_cast<kvm_run*>(mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0));
  int64_t result = -1;
  if (call(vcpu, KVM_RUN, 0, "KVM_RUN") >= 0) {
    if (run->exit_reason == KVM_EXIT_MMIO && run->mmio.phys_addr == kResult && run->mmio.is_write) memcpy(&result, run->mmio.data, 8);
    else why = "ended with exit " + std::to_string(run->exit_reason);
  }
  munmap(run, static_cast<size_t>(size));
  finish(0);
  munmap(ram, kRam);
  return result;
}

int64_t run_here(const std::vector<uint8_t>& image, uint64_t entry, std::string& why) {
  void* code = mmap(nullptr, image.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (code == MAP_FAILED) return why = "mmap", -1;
  memcpy(code, image.data(), image.size());
  mprotect(code, image.size(), PROT_READ | PROT_EXEC);
  int64_t result = reinterpret_cast<int64_t (*)()>(static_cast<uint8_t*>(code) + entry)();
  munmap(code, image.size());
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  std::string_view on;
  bool break_one = false;
  for (int i = 1; i < argc; i++) {
    std::string_view a = argv[i];
    if (a == "--on" && i + 1 < argc) on = argv[++i];
    else if (a == "--break-one") break_one = true;
    else on = "?";
  }
  if (on != "softkvm" && on != "kvm" && on != "host") return fprintf(stderr, "usage: guest_tests --on softkvm|kvm|host [--break-one]\n"), 2;
  if (on == "kvm" && access("/dev/kvm", R_OK | W_OK)) return printf("SKIP all: /dev/kvm: %s\n", strerror(errno)), 77;
  std::vector<uint8_t> image(guest_anchor, __stop_guest_text);
  if (break_one) image[static_cast<size_t>(guest_break_here - guest_anchor) + 1] = 0x29;  // ADD r/m, r becomes SUB
  unsigned passed = 0, failed = 0, skipped = 0;
  auto entry_of = [](const Group* g) { return static_cast<uint64_t>(reinterpret_cast<const uint8_t*>(&g->entry) + g->entry - guest_anchor); };
  // What the machine's KVM can do at CPL 0, probed for once. softkvm has to do all.
  uint64_t cannot = 0;
  for (const Group* g = __start_guest_table; on == "kvm" && g < __stop_guest_table; g++) {
    std::string why;
    if (g->needs & kProbe && run_in_guest(kKernel, image, entry_of(g), true, why) != 0) cannot |= g->needs & kAbilities;
  }
  for (const Group* g = __start_guest_table; g < __stop_guest_table; g++) {
    const char* name = reinterpret_cast<const char*>(&g->name) + g->name;
    const uint64_t entry = entry_of(g);
    std::string why;
    const bool privileged = g->needs & kPrivileged;
    if ((on == "host" && privileged) || (on == "kvm" && g->needs & kProbe)) continue;
    if (const uint64_t lacking = g->needs & cannot) {
      printf("SKIP %s: this /dev/kvm has no %s\n", name, ability(lacking));
      skipped++;
      continue;
    }
    if (const char* what = missing(g->needs)) {
      printf("SKIP %s: this CPU has no %s\n", name, what);
      skipped++;
      continue;
    }
    int64_t result = on == "host" ? run_here(image, entry, why) : run_in_guest(on == "kvm" ? kKernel : kSoft, image, entry, privileged, why);
    if (result == 0) printf("PASS %s\n", name), passed++;
    else if (result > 0) printf("FAIL %s: check %ld\n", name, result), failed++;
    else printf("FAIL %s: %s\n", name, why.c_str()), failed++;
    fflush(stdout);
  }
  printf("%u passed, %u failed, %u skipped on %s\n", passed, failed, skipped, std::string(on).c_str());
  return failed ? 1 : passed ? 0 : 77;
}
