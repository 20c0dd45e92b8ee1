// SPDX-License-Identifier: Apache-2.0
// Every ioctl of softkvm with hostile arguments. The input is a list of calls: which handle, which request, what argument (a number, a
// pointer to bytes of the input, a pointer to nothing, a pointer whose end is nothing). Guest memory is confined to an arena, since a memory
// slot may name any address of this process. KVM_RUN only completes what is open (immediate_exit), it runs no guest code.
#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "softkvm/abi/kvm_newer.h"
#include "softkvm/softkvm.h"

namespace {

using namespace vireo;

constexpr size_t kArena = 1 << 20, kPage = 4096, kMaxCalls = 48;

constexpr unsigned long kRequests[] = {
    // system
    KVM_GET_API_VERSION, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE, KVM_GET_SUPPORTED_CPUID, KVM_GET_EMULATED_CPUID,
    KVM_GET_MSR_INDEX_LIST, KVM_GET_MSR_FEATURE_INDEX_LIST, KVM_X86_GET_MCE_CAP_SUPPORTED,
    // VM
    KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION, KVM_SET_USER_MEMORY_REGION2, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, KVM_SET_TSS_ADDR,
    KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_NR_MMU_PAGES, KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2, KVM_CREATE_PIT, KVM_GET_IRQCHIP, KVM_SET_IRQCHIP,
    KVM_GET_PIT, KVM_SET_PIT, KVM_GET_PIT2, KVM_SET_PIT2, KVM_REINJECT_CONTROL, KVM_IRQ_LINE, KVM_IRQ_LINE_STATUS, KVM_SET_GSI_ROUTING,
    KVM_SIGNAL_MSI, KVM_IRQFD, KVM_IOEVENTFD, KVM_REGISTER_COALESCED_MMIO, KVM_UNREGISTER_COALESCED_MMIO, KVM_GET_CLOCK, KVM_SET_CLOCK,
    KVM_ENABLE_CAP, KVM_X86_SET_MSR_FILTER, KVM_SET_BOOT_CPU_ID, KVM_CREATE_DEVICE,
    // vCPU
    KVM_RUN, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_SREGS, KVM_GET_SREGS2, KVM_SET_SREGS2, KVM_GET_FPU, KVM_SET_FPU,
    KVM_GET_XSAVE, KVM_GET_XSAVE2, KVM_SET_XSAVE, KVM_GET_XCRS, KVM_SET_XCRS, KVM_GET_MSRS, KVM_SET_MSRS, KVM_SET_CPUID, KVM_SET_CPUID2,
    KVM_GET_CPUID2, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_INTERRUPT, KVM_NMI, KVM_SMI,
    KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, KVM_SET_GUEST_DEBUG, KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_TPR_ACCESS_REPORTING,
    KVM_SET_VAPIC_ADDR, KVM_X86_SETUP_MCE, KVM_X86_SET_MCE, KVM_SET_TSC_KHZ, KVM_GET_TSC_KHZ, KVM_KVMCLOCK_CTRL, KVM_SET_SIGNAL_MASK,
    KVM_TRANSLATE, KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR,
    // both, or later additions
    KVM_RESET_DIRTY_RINGS, KVM_GET_STATS_FD,
};

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}
  bool empty() const { return left_ == 0; }
  uint8_t byte() { return left_ > 0 ? (left_--, *data_++) : 0; }
  uint64_t word() {
    uint64_t value = 0;
    take(&value, 8);
    return value;
  }
  void take(void* to, size_t size) {
    size_t n = std::min(size, left_);
    std::memcpy(to, data_, n);
    std::memset(static_cast<uint8_t*>(to) + n, 0, size - n);
    data_ += n, left_ -= n;
  }

 private:
  const uint8_t* data_;
  size_t left_;
};

uint8_t* arena() {
  static auto* at = static_cast<uint8_t*>(::mmap(nullptr, kArena, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  return at;
}

// Room for an argument, with nothing behind it.
uint8_t* argument_end() {
  static uint8_t* end = [] {
    constexpr size_t kRoom = 16 * kPage;
    auto* at = static_cast<uint8_t*>(::mmap(nullptr, kRoom + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(at + kRoom, kPage, PROT_NONE);
    return at + kRoom;
  }();
  return end;
}

template <class Region>
void confine(uint8_t* argument) {
  Region region;
  std::memcpy(&region, argument, sizeof region);
  region.memory_size %= kArena / 2 + kPage;
  region.userspace_addr = reinterpret_cast<uintptr_t>(arena()) + region.userspace_addr % (kArena / 2);
  if (region.guest_phys_addr & 1) {  // mostly well-formed
    region.guest_phys_addr &= 0xfffff000, region.memory_size &= ~0xfffull, region.userspace_addr &= ~0xfffull, region.slot &= 7;
    region.flags &= 3;
  }
  std::memcpy(argument, &region, sizeof region);
}

struct Handles {
  int system = -1, vm = -1, vcpus[2] = {-1, -1}, event = -1;
  kvm_run* run = nullptr;
};

void call(Handles& h, Bytes& in) {
  const uint8_t how = in.byte();
  const unsigned long request = kRequests[in.byte() % std::size(kRequests)];
  const unsigned number = _IOC_NR(request);
  int fd = (how & 3) == 3 ? h.system : number >= 0x80 && number < 0xb8 ? h.vcpus[how & 1] : h.vm;
  if ((how & 3) == 2) fd = h.vm;
  uintptr_t argument = 0;
  const bool pointer = _IOC_SIZE(request) != 0;
  if (!pointer) {
    argument = request == KVM_RUN ? 0 : in.word();
  } else {
    // Structs with an array behind them get some of it.
    size_t size = _IOC_SIZE(request) + (_IOC_SIZE(request) <= 16 ? 512 : 0);
    uint8_t* at = argument_end() - size;
    in.take(at, size);
    if (request == KVM_SET_USER_MEMORY_REGION) confine<kvm_userspace_memory_region>(at);
    if (request == KVM_SET_USER_MEMORY_REGION2) confine<kvm_userspace_memory_region2>(at);
    if ((request == KVM_IRQFD || request == KVM_IOEVENTFD) && (how & 0x40)) std::memcpy(at + (request == KVM_IRQFD ? 0 : 20), &h.event, 4);
    if (request == KVM_GET_DIRTY_LOG || request == KVM_CLEAR_DIRTY_LOG) {
      // The bitmap's pointer is user space's own business; it must not name the fuzzer's heap.
      uintptr_t bitmap = reinterpret_cast<uintptr_t>(arena()) + kArena / 2;
      std::memcpy(at + (request == KVM_GET_DIRTY_LOG ? 8 : 16), &bitmap, 8);
    }
    if (request == KVM_GET_DEVICE_ATTR || request == KVM_SET_DEVICE_ATTR) {
      uintptr_t value = reinterpret_cast<uintptr_t>(arena());
      std::memcpy(at + offsetof(kvm_device_attr, addr), &value, 8);
    }
    switch (how >> 2 & 7) {
      case 0: argument = 8; break;
      case 1: argument = reinterpret_cast<uintptr_t>(argument_end()) - 4; break;
      default: argument = reinterpret_cast<uintptr_t>(at);
    }
    if (request == KVM_SET_SIGNAL_MASK) argument = 0;  // a mask would let the fuzzer's own signals through or not
  }
  if (request == KVM_CREATE_DEVICE || request == KVM_ENABLE_CAP) fd = h.vm;
  if (request == KVM_RUN) {
    if (how & 0x80) in.take(h.run, sizeof(kvm_run));
    h.run->immediate_exit = 1;
  }
  int result = softkvm::ioctl(fd, request, argument);
  if (result > 2 && request == KVM_CREATE_VCPU && fd == h.vm) softkvm::close(result);
  if (result > 2 && request == KVM_GET_STATS_FD) ::close(result);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Bytes in(data, size);
  Handles h;
  const uint8_t kind = in.byte();
  h.system = softkvm::open_system();
  h.vm = softkvm::ioctl(h.system, KVM_CREATE_VM, 0);
  h.event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  kvm_userspace_memory_region region{0, 0, 0, kArena / 2, reinterpret_cast<uintptr_t>(arena())};
  softkvm::ioctl(h.vm, KVM_SET_USER_MEMORY_REGION, reinterpret_cast<uintptr_t>(&region));
  if ((kind & 3) == 1) softkvm::ioctl(h.vm, KVM_CREATE_IRQCHIP, 0);
  if ((kind & 3) == 2) {
    kvm_enable_cap cap{};
    cap.cap = KVM_CAP_SPLIT_IRQCHIP, cap.args[0] = 24;
    softkvm::ioctl(h.vm, KVM_ENABLE_CAP, reinterpret_cast<uintptr_t>(&cap));
  }
  for (unsigned id = 0; id < 2; id++) h.vcpus[id] = softkvm::ioctl(h.vm, KVM_CREATE_VCPU, id);
  if (h.vcpus[0] < 0 || h.vcpus[1] < 0) std::abort();
  void* pages = ::mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, h.vcpus[0], 0);
  void* others = ::mmap(nullptr, 3 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, h.vcpus[1], 0);
  h.run = static_cast<kvm_run*>(pages);
  static_cast<kvm_run*>(others)->immediate_exit = 1;
  for (size_t calls = 0; calls < kMaxCalls && !in.empty(); calls++) call(h, in);
  ::munmap(pages, 3 * kPage);
  ::munmap(others, 3 * kPage);
  for (int fd : h.vcpus) softkvm::close(fd);
  softkvm::close(h.vm);
  softkvm::close(h.system);
  ::close(h.event);
  return 0;
}
