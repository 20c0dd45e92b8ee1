// SPDX-License-Identifier: Apache-2.0
// KVM_GET/SET_FPU, KVM_GET/SET_XSAVE(2), KVM_GET/SET_XCRS. The engine keeps SIMD and x87 in an XSAVE image of the standard format; PKRU is
// the one component it keeps elsewhere (the host's must not change with the guest's).
// Spec: Intel SDM vol 1, 10.5 (FXSAVE), 13.4 (XSAVE area), 13.11 (initial configurations).
#include <cpuid.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/cpu/system.h"

namespace vireo::softkvm::abi {
namespace {

constexpr size_t kXsaveSize = sizeof(kvm_xsave);
constexpr uint64_t kX87 = 1, kSse = 2, kPkru = 1 << 9;
constexpr uint32_t kMxcsrInit = 0x1f80;

// The fixed part of the XSAVE area.
struct XsaveHead {
  uint16_t fcw, fsw;
  uint8_t ftw, reserved1;
  uint16_t fop;
  uint64_t fip, fdp;
  uint32_t mxcsr, mxcsr_mask;
  uint8_t st[8][16];
  uint8_t xmm[16][16];
  uint8_t reserved2[48];
  uint8_t software[48];
  uint64_t xstate_bv, xcomp_bv, reserved3[6];
};
static_assert(sizeof(XsaveHead) == 576);

struct Component {
  uint32_t size = 0, offset = 0;
};

Component host_component(unsigned number) {
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid_max(0, nullptr) < 0xd) return {};
  __cpuid_count(0xd, number, eax, ebx, ecx, edx);
  return {eax, ebx};
}

// Where PKRU is in the area that user space sees: as the guest's leaf 0xD says, else as the host's.
uint32_t pkru_offset(const VcpuFile& file) {
  const auto& guest = file.cpuid.xsave_component[9];
  uint32_t offset = guest.size >= 4 ? guest.offset : host_component(9).offset;
  return offset >= sizeof(XsaveHead) && offset + 8 <= kXsaveSize ? offset : 0;
}

uint32_t mxcsr_mask() {
  static const uint32_t mask = [] {
    alignas(16) uint8_t area[512] = {};
    asm volatile("fxsave64 %0" : "=m"(area));
    uint32_t value;
    std::memcpy(&value, area + 28, 4);
    return value != 0 ? value : 0xffbf;
  }();
  return mask;
}

XsaveHead& head(Vcpu& vcpu) { return *reinterpret_cast<XsaveHead*>(vcpu.xsave_area()); }

// Components in their initial configuration may have left old bytes behind; user space gets the initial values.
void settle_initial(Vcpu& vcpu) {
  XsaveHead& h = head(vcpu);
  uint64_t bv = h.xstate_bv;
  if (!(bv & kX87)) {
    std::memset(&h, 0, 24);
    std::memset(h.st, 0, sizeof h.st);
    h.fcw = 0x37f;
  }
  if (!(bv & kSse)) std::memset(h.xmm, 0, sizeof h.xmm);
  h.mxcsr_mask = mxcsr_mask();
  std::memset(h.reserved2, 0, sizeof h.reserved2 + sizeof h.software);
  h.xcomp_bv = 0;
  std::memset(h.reserved3, 0, sizeof h.reserved3);
  uint64_t supported = Vcpu::supported_xcr0();
  for (unsigned i = 2; i < 63; i++) {
    if (!(supported >> i & 1) || (bv >> i & 1)) continue;
    Component c = host_component(i);
    if (c.offset >= sizeof(XsaveHead) && c.offset + c.size <= Vcpu::xsave_size()) std::memset(vcpu.xsave_area() + c.offset, 0, c.size);
  }
}

int xsave2_size(const VmFile*) { return static_cast<int>(std::max<size_t>(kXsaveSize, Vcpu::xsave_size())); }

}  // namespace

const Capability kFpuCapabilities[] = {
    {KVM_CAP_XSAVE},
    {KVM_CAP_XSAVE2, 0, xsave2_size},
    {KVM_CAP_XCRS},
};
CAPABILITIES(fpu_capabilities, kFpuCapabilities)

void reset_fpu(Vcpu& vcpu) {
  std::memset(vcpu.xsave_area(), 0, Vcpu::xsave_size());
  head(vcpu).fcw = 0x37f;
  head(vcpu).mxcsr = kMxcsrInit;
}

int get_fpu(VcpuFile& file, uintptr_t argument) {
  settle_initial(*file.vcpu);
  const XsaveHead& h = head(*file.vcpu);
  kvm_fpu fpu{};
  std::memcpy(fpu.fpr, h.st, sizeof fpu.fpr);
  fpu.fcw = h.fcw, fpu.fsw = h.fsw, fpu.ftwx = h.ftw, fpu.last_opcode = h.fop;
  fpu.last_ip = h.fip, fpu.last_dp = h.fdp;
  std::memcpy(fpu.xmm, h.xmm, sizeof fpu.xmm);
  return copy_out(argument, fpu) ? 0 : -EFAULT;
}

// MXCSR stays as it is: the kernel does not look at that member, so callers leave anything there.
int set_fpu(VcpuFile& file, uintptr_t argument) {
  kvm_fpu fpu;
  if (!copy_in(fpu, argument)) return -EFAULT;
  settle_initial(*file.vcpu);
  XsaveHead& h = head(*file.vcpu);
  std::memcpy(h.st, fpu.fpr, sizeof h.st);
  h.fcw = fpu.fcw, h.fsw = fpu.fsw, h.ftw = fpu.ftwx, h.fop = fpu.last_opcode;
  h.fip = fpu.last_ip, h.fdp = fpu.last_dp;
  std::memcpy(h.xmm, fpu.xmm, sizeof h.xmm);
  h.xstate_bv |= kX87 | kSse;
  file.vcpu->state_changed();
  return 0;
}

int get_xsave(VcpuFile& file, uintptr_t argument) {
  Vcpu& vcpu = *file.vcpu;
  if (Vcpu::xsave_size() > kXsaveSize) return -EINVAL;
  settle_initial(vcpu);
  alignas(8) uint8_t area[kXsaveSize] = {};
  std::memcpy(area, vcpu.xsave_area(), Vcpu::xsave_size());
  auto& h = *reinterpret_cast<XsaveHead*>(area);
  h.xstate_bv &= ~kPkru;
  if (uint32_t offset = pkru_offset(file)) {
    std::memset(area + offset, 0, 8);
    std::memcpy(area + offset, &vcpu.pkru, 4);
    if (vcpu.pkru != 0) h.xstate_bv |= kPkru;
  }
  return copy_out(argument, area, sizeof area) ? 0 : -EFAULT;
}

int set_xsave(VcpuFile& file, uintptr_t argument) {
  Vcpu& vcpu = *file.vcpu;
  alignas(8) uint8_t area[kXsaveSize];
  if (!copy_in(area, argument, sizeof area)) return -EFAULT;
  auto& h = *reinterpret_cast<XsaveHead*>(area);
  uint32_t offset = pkru_offset(file);
  uint64_t allowed = Vcpu::supported_xcr0() | (offset != 0 ? kPkru : 0);
  if ((h.xstate_bv & ~allowed) || h.xcomp_bv != 0 || (h.mxcsr & ~mxcsr_mask())) return -EINVAL;
  for (uint64_t word : h.reserved3) {
    if (word != 0) return -EINVAL;
  }
  uint32_t pkru = 0;
  if (h.xstate_bv & kPkru) std::memcpy(&pkru, area + offset, 4);
  vcpu.pkru = pkru;
  h.xstate_bv &= ~kPkru;
  std::memcpy(vcpu.xsave_area(), area, std::min<size_t>(Vcpu::xsave_size(), sizeof area));
  settle_initial(vcpu);
  vcpu.state_changed();
  return 0;
}

int get_xcrs(VcpuFile& file, uintptr_t argument) {
  kvm_xcrs xcrs{};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = file.vcpu->xcr0;
  return copy_out(argument, xcrs) ? 0 : -EFAULT;
}

int set_xcrs(VcpuFile& file, uintptr_t argument) {
  kvm_xcrs xcrs;
  if (!copy_in(xcrs, argument)) return -EFAULT;
  if (xcrs.nr_xcrs > KVM_MAX_XCRS || xcrs.flags != 0) return -EINVAL;
  for (unsigned i = 0; i < xcrs.nr_xcrs; i++) {
    if (xcrs.xcrs[i].xcr != 0) continue;
    if (!valid_xcr0(*file.vcpu, xcrs.xcrs[i].value)) return -EINVAL;
    file.vcpu->xcr0 = xcrs.xcrs[i].value;
    file.vcpu->state_changed();
    break;
  }
  return 0;
}

}  // namespace vireo::softkvm::abi
