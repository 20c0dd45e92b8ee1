// SPDX-License-Identifier: Apache-2.0
#include "saved_state.h"

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kvm/variable_structs.h"

namespace vireo::moves {
namespace {

constexpr uint32_t kTsc = 0x10, kTscDeadline = 0x6e0;

struct OneMsr {
  uint32_t nmsrs = 1, pad = 0;
  kvm_msr_entry entry = {};
};

bool get_msr(const kvm::Api& api, int vcpu, uint32_t index, uint64_t& value) {
  OneMsr one;
  one.entry.index = index;
  if (api.ioctl(vcpu, kvm::kGetMsrs, reinterpret_cast<uintptr_t>(&one)) != 1) return false;
  value = one.entry.data;
  return true;
}

bool set_msr(const kvm::Api& api, int vcpu, kvm_msr_entry entry) {
  OneMsr one;
  one.entry = entry;
  return api.ioctl(vcpu, kvm::kSetMsrs, reinterpret_cast<uintptr_t>(&one)) == 1;
}

class Writer {
 public:
  template <class T>
  void operator()(const T& value) {
    auto* at = reinterpret_cast<const uint8_t*>(&value);
    bytes.insert(bytes.end(), at, at + sizeof value);
  }
  template <class T>
  void operator()(const std::vector<T>& values) {
    (*this)(values.size());
    for (const T& value : values) (*this)(value);
  }
  std::vector<uint8_t> bytes;
};

class Reader {
 public:
  explicit Reader(const std::vector<uint8_t>& bytes) : bytes_(bytes) {}
  template <class T>
  void operator()(T& value) {
    if (bytes_.size() - at_ < sizeof value) die("the saved state is cut off");
    memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
  }
  template <class T>
  void operator()(std::vector<T>& values) {
    size_t count;
    (*this)(count);
    if (count > bytes_.size()) die("the saved state is damaged");
    values.resize(count);
    for (T& value : values) (*this)(value);
  }

 private:
  const std::vector<uint8_t>& bytes_;
  size_t at_ = 0;
};

template <class Visitor, class Saved>
void visit_vcpu(Visitor& visit, Saved& v) {
  visit(v.cpuid), visit(v.regs), visit(v.sregs), visit(v.xsave), visit(v.xcrs), visit(v.debugregs), visit(v.events), visit(v.mp_state);
  visit(v.lapic), visit(v.has_lapic), visit(v.msrs);
}

template <class Visitor, class Saved>
void visit_vm(Visitor& visit, Saved& vm) {
  visit(vm.has_irqchip), visit(vm.chips), visit(vm.pit), visit(vm.clock), visit(vm.devices);
}

}  // namespace

void die(const char* format, ...) {
  va_list list;
  va_start(list, format);
  fprintf(stderr, "state_moves: ");
  vfprintf(stderr, format, list);
  fprintf(stderr, "\n");
  va_end(list);
  exit(1);
}

int call(const kvm::Api& api, int fd, unsigned long request, uintptr_t argument, const char* what) {
  int result = api.ioctl(fd, request, argument);
  if (result < 0) die("%s: %s: %s", api.name, what, strerror(-result));
  return result;
}

int call(const kvm::Api& api, int fd, unsigned long request, const void* argument, const char* what) {
  return call(api, fd, request, reinterpret_cast<uintptr_t>(argument), what);
}

std::vector<uint32_t> msr_indices(const kvm::Api& api, int system) {
  kvm::MsrList list(512);
  call(api, system, kvm::kGetMsrIndexList, list.data(), "KVM_GET_MSR_INDEX_LIST");
  return list.elements();
}

std::vector<kvm_cpuid_entry2> supported_cpuid(const kvm::Api& api, int system) {
  kvm::CpuidTable table(256);
  call(api, system, kvm::kGetSupportedCpuid, table.data(), "KVM_GET_SUPPORTED_CPUID");
  return table.elements();
}

void set_cpuid(const kvm::Api& api, int vcpu, std::vector<kvm_cpuid_entry2> entries) {
  kvm::CpuidTable table{std::span<const kvm_cpuid_entry2>(entries)};
  call(api, vcpu, kvm::kSetCpuid2, table.data(), "KVM_SET_CPUID2");
}

SavedVcpu save_vcpu(const kvm::Api& api, int system, int vm, int vcpu, const std::vector<kvm_cpuid_entry2>& cpuid) {
  SavedVcpu saved;
  saved.cpuid = cpuid;
  // First: it settles what a kernel's KVM has put off (an INIT that came is applied).
  call(api, vcpu, KVM_GET_MP_STATE, &saved.mp_state, "KVM_GET_MP_STATE");
  call(api, vcpu, KVM_GET_REGS, &saved.regs, "KVM_GET_REGS");
  call(api, vcpu, KVM_GET_SREGS2, &saved.sregs, "KVM_GET_SREGS2");
  int size = api.ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
  saved.xsave.resize((size > 4096 ? size : 4096) / 4);
  call(api, vcpu, size > 0 ? kvm::kGetXsave2 : kvm::kGetXsave, saved.xsave.data(), "KVM_GET_XSAVE2");
  call(api, vcpu, KVM_GET_XCRS, &saved.xcrs, "KVM_GET_XCRS");
  call(api, vcpu, KVM_GET_DEBUGREGS, &saved.debugregs, "KVM_GET_DEBUGREGS");
  saved.has_lapic = api.ioctl(vcpu, KVM_GET_LAPIC, reinterpret_cast<uintptr_t>(&saved.lapic)) == 0;
  for (uint32_t index : msr_indices(api, system)) {
    uint64_t value;
    if (get_msr(api, vcpu, index, value)) saved.msrs.push_back({.index = index, .data = value});
  }
  call(api, vcpu, KVM_GET_VCPU_EVENTS, &saved.events, "KVM_GET_VCPU_EVENTS");
  return saved;
}

void restore_vcpu(const kvm::Api& api, int vcpu, const SavedVcpu& saved, bool foreign) {
  set_cpuid(api, vcpu, saved.cpuid);
  call(api, vcpu, KVM_SET_SREGS2, &saved.sregs, "KVM_SET_SREGS2");
  call(api, vcpu, KVM_SET_REGS, &saved.regs, "KVM_SET_REGS");
  int xcrs = api.ioctl(vcpu, KVM_SET_XCRS, reinterpret_cast<uintptr_t>(&saved.xcrs));
  if (xcrs < 0 && !foreign) die("%s: KVM_SET_XCRS: %s", api.name, strerror(-xcrs));
  call(api, vcpu, kvm::kSetXsave, saved.xsave.data(), "KVM_SET_XSAVE");
  call(api, vcpu, KVM_SET_DEBUGREGS, &saved.debugregs, "KVM_SET_DEBUGREGS");
  // The counter first, as the APIC's deadline is measured against it; the deadline after the APIC's timer mode.
  for (const kvm_msr_entry& entry : saved.msrs)
    if (entry.index == kTsc) set_msr(api, vcpu, entry);
  if (saved.has_lapic) call(api, vcpu, KVM_SET_LAPIC, &saved.lapic, "KVM_SET_LAPIC");
  for (const kvm_msr_entry& entry : saved.msrs) {
    uint64_t now;
    if (entry.index == kTsc || set_msr(api, vcpu, entry) || foreign) continue;
    // Those that are listed but not written by a host (what the CPU is) must be the same here.
    if (!get_msr(api, vcpu, entry.index, now) || now != entry.data)
      die("%s: register %#x cannot be set to %#llx", api.name, entry.index, static_cast<unsigned long long>(entry.data));
  }
  call(api, vcpu, KVM_SET_MP_STATE, &saved.mp_state, "KVM_SET_MP_STATE");
  kvm_vcpu_events events = saved.events;
  if (foreign) events.flags &= KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
  call(api, vcpu, KVM_SET_VCPU_EVENTS, &events, "KVM_SET_VCPU_EVENTS");
}

void save_chips(const kvm::Api& api, int vm, SavedVm& saved) {
  saved.has_irqchip = true;
  for (unsigned i = 0; i < 3; i++) {
    saved.chips[i].chip_id = i;
    call(api, vm, KVM_GET_IRQCHIP, &saved.chips[i], "KVM_GET_IRQCHIP");
  }
  call(api, vm, KVM_GET_PIT2, &saved.pit, "KVM_GET_PIT2");
  call(api, vm, KVM_GET_CLOCK, &saved.clock, "KVM_GET_CLOCK");
}

void restore_chips(const kvm::Api& api, int vm, const SavedVm& saved) {
  for (const kvm_irqchip& chip : saved.chips) call(api, vm, KVM_SET_IRQCHIP, &chip, "KVM_SET_IRQCHIP");
  call(api, vm, KVM_SET_PIT2, &saved.pit, "KVM_SET_PIT2");
}

void restore_clock(const kvm::Api& api, int vm, const SavedVm& saved) {
  kvm_clock_data clock{};
  clock.clock = saved.clock.clock;
  call(api, vm, KVM_SET_CLOCK, &clock, "KVM_SET_CLOCK");
}

std::vector<uint8_t> to_bytes(const SavedVm& saved) {
  Writer writer;
  visit_vm(writer, saved);
  writer(saved.vcpus.size());
  for (const SavedVcpu& vcpu : saved.vcpus) visit_vcpu(writer, vcpu);
  return std::move(writer.bytes);
}

SavedVm from_bytes(const std::vector<uint8_t>& bytes) {
  Reader reader(bytes);
  SavedVm saved;
  visit_vm(reader, saved);
  size_t count;
  reader(count);
  if (count > 16) die("the saved state is damaged");
  saved.vcpus.resize(count);
  for (SavedVcpu& vcpu : saved.vcpus) visit_vcpu(reader, vcpu);
  return saved;
}

}  // namespace vireo::moves
