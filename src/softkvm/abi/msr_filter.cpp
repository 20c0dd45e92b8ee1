// SPDX-License-Identifier: Apache-2.0
// FAST: asked by RDMSR and WRMSR.
#include "softkvm/abi/msr_filter.h"

#include "softkvm/cpu/system.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {

bool msr_filter_allows(VcpuState& vcpu, uint32_t index, bool write) {
  if (vcpu.vm->msr_filter.current() == nullptr) return true;
  Published<MsrFilter>::Reader filter(vcpu.vm->msr_filter);
  return !filter || filter->allows(index, write);
}

}  // namespace vireo::softkvm
