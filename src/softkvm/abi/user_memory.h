// SPDX-License-Identifier: Apache-2.0
// Copies between the hypervisor and the memory an ioctl's argument points to. It is the caller's own memory, but a pointer may be
// wrong: then the call fails with EFAULT, as the kernel's copy_from_user and copy_to_user do, and the process lives.
#pragma once

#include <cstddef>
#include <cstdint>

namespace vireo::softkvm::abi {

// False: not all of it is readable (EFAULT); what `to` holds is then unspecified.
bool copy_in(void* to, uintptr_t from, size_t size);
// False: not all of it is writable (EFAULT); a part may have been written.
bool copy_out(uintptr_t to, const void* from, size_t size);

template <class T>
bool copy_in(T& to, uintptr_t from) {
  return copy_in(&to, from, sizeof to);
}
template <class T>
bool copy_out(uintptr_t to, const T& from) {
  return copy_out(to, &from, sizeof from);
}

}  // namespace vireo::softkvm::abi
