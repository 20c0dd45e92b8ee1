// SPDX-License-Identifier: Apache-2.0
// Stands in for soft_api.cpp in a build without softkvm.
#include "kvm/api.h"

namespace vireo::kvm {

const Api* soft_api() { return nullptr; }

}  // namespace vireo::kvm
