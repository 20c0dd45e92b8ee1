// SPDX-License-Identifier: Apache-2.0
// KVM_GET/SET_DEBUGREGS, KVM_SET_GUEST_DEBUG, KVM_TRANSLATE: for debuggers.
#include <cerrno>
#include <cstring>

#include "softkvm/abi/capability.h"
#include "softkvm/abi/user_memory.h"
#include "softkvm/abi/vcpu_ioctls.h"
#include "softkvm/mmu/slots.h"
#include "softkvm/mmu/walk.h"
#include "softkvm/translate/safe_point.h"

namespace vireo::softkvm::abi {

constexpr uint32_t kGuestDebugControls = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_USE_HW_BP |
                                         KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_INJECT_BP | KVM_GUESTDBG_INJECT_DB |
                                         KVM_GUESTDBG_BLOCKIRQ;

const Capability kDebugCapabilities[] = {
    {KVM_CAP_DEBUGREGS},
    {KVM_CAP_SET_GUEST_DEBUG},
    {KVM_CAP_SET_GUEST_DEBUG2, kGuestDebugControls},
    {KVM_CAP_X86_ROBUST_SINGLESTEP},
};
CAPABILITIES(debug_capabilities, kDebugCapabilities)

int get_debugregs(VcpuFile& file, uintptr_t argument) {
  kvm_debugregs regs{};
  std::memcpy(regs.db, file.vcpu->dr, sizeof regs.db);
  regs.dr6 = file.vcpu->dr6;
  regs.dr7 = file.vcpu->dr7;
  return copy_out(argument, regs) ? 0 : -EFAULT;
}

int set_debugregs(VcpuFile& file, uintptr_t argument) {
  kvm_debugregs regs;
  if (!copy_in(regs, argument)) return -EFAULT;
  if (regs.flags != 0 || regs.dr6 >> 32 != 0 || regs.dr7 >> 32 != 0) return -EINVAL;
  Vcpu& v = *file.vcpu;
  std::memcpy(v.dr, regs.db, sizeof v.dr);
  v.dr6 = regs.dr6;
  v.dr7 = regs.dr7;
  v.state_changed();
  return 0;
}

int set_guest_debug(VcpuFile& file, uintptr_t argument) {
  kvm_guest_debug debug;
  if (!copy_in(debug, argument)) return -EFAULT;
  Vcpu& v = *file.vcpu;
  if (debug.control & (KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP)) {
    if (v.injected.pending) return -EBUSY;
    v.injected = {};
    v.injected.pending = true;
    v.injected.vector = debug.control & KVM_GUESTDBG_INJECT_DB ? kDB : kBP;
    v.injected_is_pending = true;
    v.injected_has_payload = false;
  }
  v.guest_debug = debug;
  if (!(debug.control & KVM_GUESTDBG_ENABLE)) v.guest_debug = {};
  v.debugger_dr7 = v.guest_debug.control & KVM_GUESTDBG_USE_HW_BP ? v.guest_debug.arch.debugreg[7] | 0x400 : 0;
  v.breakpoint_exits = v.guest_debug.control & KVM_GUESTDBG_USE_SW_BP;
  v.state_changed();
  return 0;
}

// As a supervisor's read, without the checks of SMAP. The kernel answers `writeable` and `usermode` the same for every address.
int translate(VcpuFile& file, uintptr_t argument) {
  kvm_translation io;
  if (!copy_in(io, argument)) return -EFAULT;
  Vcpu& v = *file.vcpu;
  PendingException saved = v.fault;
  PageTranslation found;
  const AtMemory here(v);
  bool valid = walk(v, io.linear_address, Want::kRead, false, true, false, found) == Outcome::kNext;
  v.fault = saved;
  io.physical_address = valid ? found.gpa & ~kSmmSpace : ~0ull;
  io.valid = valid;
  io.writeable = 1;
  io.usermode = 0;
  return copy_out(argument, io) ? 0 : -EFAULT;
}

}  // namespace vireo::softkvm::abi
