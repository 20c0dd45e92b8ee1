// SPDX-License-Identifier: Apache-2.0
#include "kvm/vcpu.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstring>

#include "kvm/variable_structs.h"

namespace vireo::kvm {
namespace {

constexpr uint32_t kMsrTsc = 0x10;

// kvm_msrs with room for one entry.
struct OneMsr {
  uint32_t nmsrs = 1;
  uint32_t pad = 0;
  kvm_msr_entry entry = {};
};
static_assert(offsetof(OneMsr, entry) == 8);

}  // namespace

Vcpu::~Vcpu() { munmap(run_, run_size_); }

int Vcpu::run() {
  int result = handle_.api().ioctl(handle_.fd(), KVM_RUN, 0);
  return result < 0 ? -result : 0;
}

Result<OwnedFd> Vcpu::statistics() const {
  if (vm_->extension(KVM_CAP_BINARY_STATS_FD) <= 0) return fail(ErrorKind::kUnsupported, std::string(api().name) + ": no binary statistics");
  return OwnedFd(TRY(handle_.call(KVM_GET_STATS_FD, uintptr_t{0}, "KVM_GET_STATS_FD")));
}

std::span<std::byte> Vcpu::io_data() {
  uint64_t offset = run_->io.data_offset;
  uint64_t size = uint64_t{run_->io.size} * run_->io.count;
  if (offset > run_size_ || size > run_size_ - offset) return {};
  return {reinterpret_cast<std::byte*>(run_) + offset, size};
}

Result<kvm_regs> Vcpu::regs() const {
  kvm_regs regs;
  TRY(handle_.call(KVM_GET_REGS, &regs, "KVM_GET_REGS"));
  return regs;
}

Result<> Vcpu::set_regs(const kvm_regs& regs) {
  TRY(handle_.call(KVM_SET_REGS, &regs, "KVM_SET_REGS"));
  return {};
}

Result<kvm_sregs> Vcpu::sregs() const {
  kvm_sregs sregs;
  TRY(handle_.call(KVM_GET_SREGS, &sregs, "KVM_GET_SREGS"));
  return sregs;
}

Result<> Vcpu::set_sregs(const kvm_sregs& sregs) {
  TRY(handle_.call(KVM_SET_SREGS, &sregs, "KVM_SET_SREGS"));
  return {};
}

Result<> Vcpu::set_cpuid(std::span<const kvm_cpuid_entry2> entries) {
  CpuidTable table(entries);
  TRY(handle_.call(kSetCpuid2, table.data(), "KVM_SET_CPUID2"));
  return {};
}

Result<> Vcpu::set_mp_state(uint32_t state) {
  kvm_mp_state mp{state};
  TRY(handle_.call(KVM_SET_MP_STATE, &mp, "KVM_SET_MP_STATE"));
  return {};
}

Result<> Vcpu::share_host_tsc() {
  uint64_t offset = 0;
  kvm_device_attr attribute{.flags = 0, .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = reinterpret_cast<uintptr_t>(&offset)};
  TRY(handle_.call(KVM_SET_DEVICE_ATTR, &attribute, "KVM_SET_DEVICE_ATTR of the TSC offset"));
  return {};
}

Result<uint32_t> Vcpu::mp_state() const {
  kvm_mp_state mp{};
  TRY(handle_.call(KVM_GET_MP_STATE, &mp, "KVM_GET_MP_STATE"));
  return mp.mp_state;
}

Result<> Vcpu::set_msr(uint32_t index, uint64_t value) {
  OneMsr msr;
  msr.entry = {.index = index, .data = value};
  if (TRY(handle_.call(kSetMsrs, &msr, "KVM_SET_MSRS")) != 1)
    return fail(ErrorKind::kUnsupported, "KVM_SET_MSRS: register " + std::to_string(index));
  return {};
}

Result<uint64_t> Vcpu::msr(uint32_t index) const {
  OneMsr msr;
  msr.entry.index = index;
  if (TRY(handle_.call(kGetMsrs, &msr, "KVM_GET_MSRS")) != 1)
    return fail(ErrorKind::kUnsupported, "KVM_GET_MSRS: register " + std::to_string(index));
  return msr.entry.data;
}

Result<VcpuState> Vcpu::state(std::span<const uint32_t> msr_indices) const {
  VcpuState state;
  state.regs = TRY(regs());
  state.sregs = TRY(sregs());
  int xsave2 = vm_->extension(KVM_CAP_XSAVE2);
  if (xsave2 > 0) {
    state.xsave.resize(std::max<size_t>(xsave2, kXsaveSize) / 4);
    TRY(handle_.call(kGetXsave2, state.xsave.data(), "KVM_GET_XSAVE2"));
  } else if (vm_->extension(KVM_CAP_XSAVE)) {
    state.xsave.resize(kXsaveSize / 4);
    TRY(handle_.call(kGetXsave, state.xsave.data(), "KVM_GET_XSAVE"));
  } else {
    TRY(handle_.call(KVM_GET_FPU, &state.fpu, "KVM_GET_FPU"));
  }
  state.has_xcrs = vm_->extension(KVM_CAP_XCRS) && handle_.call(KVM_GET_XCRS, &state.xcrs, "KVM_GET_XCRS");
  TRY(handle_.call(KVM_GET_DEBUGREGS, &state.debugregs, "KVM_GET_DEBUGREGS"));
  TRY(handle_.call(KVM_GET_VCPU_EVENTS, &state.events, "KVM_GET_VCPU_EVENTS"));
  state.mp_state.mp_state = TRY(mp_state());
  state.has_lapic = handle_.call(KVM_GET_LAPIC, &state.lapic, "KVM_GET_LAPIC").has_value();
  for (uint32_t index : msr_indices)
    if (auto value = msr(index)) state.msrs.push_back({.index = index, .data = *value});
  return state;
}

Result<> Vcpu::set_state(const VcpuState& state) {
  // A system management interrupt that has come and not been taken is a request inside Linux's module, which setting events leaves alone and asking for
  // them turns into an event.
  kvm_vcpu_events came{};
  TRY(handle_.call(KVM_GET_VCPU_EVENTS, &came, "KVM_GET_VCPU_EVENTS"));
  TRY_VOID(set_sregs(state.sregs));
  TRY_VOID(set_regs(state.regs));
  if (!state.xsave.empty())
    TRY(handle_.call(kSetXsave, state.xsave.data(), "KVM_SET_XSAVE"));
  else
    TRY(handle_.call(KVM_SET_FPU, &state.fpu, "KVM_SET_FPU"));
  if (state.has_xcrs) TRY(handle_.call(KVM_SET_XCRS, &state.xcrs, "KVM_SET_XCRS"));
  TRY(handle_.call(KVM_SET_DEBUGREGS, &state.debugregs, "KVM_SET_DEBUGREGS"));
  // Registers that this hypervisor lists but does not let anyone write keep their value; the time stamp counter runs on.
  for (const kvm_msr_entry& entry : state.msrs)
    if (entry.index != kMsrTsc) (void)set_msr(entry.index, entry.data);
  if (state.has_lapic) TRY(handle_.call(KVM_SET_LAPIC, &state.lapic, "KVM_SET_LAPIC"));
  TRY_VOID(set_mp_state(state.mp_state.mp_state));
  TRY(handle_.call(KVM_SET_VCPU_EVENTS, &state.events, "KVM_SET_VCPU_EVENTS"));
  return {};
}

}  // namespace vireo::kvm
