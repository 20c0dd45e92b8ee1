// SPDX-License-Identifier: Apache-2.0
// Which hypervisor runs the guest: the user's word, or a measurement. The verdict on /dev/kvm is kept per boot, kernel and CPU
// model in a small file of the user's own, since it costs up to 100 ms.
#pragma once

#include <string>

#include "kvm/api.h"

namespace vireo::kvm {

enum class AcceleratorWish { kAuto, kKvm, kSoft };

struct AcceleratorChoice {
  const Api* api = nullptr;
  std::string note;  // one line for the user when auto did not take the hardware, else empty
};

Result<AcceleratorChoice> choose_accelerator(AcceleratorWish wish);

// The file that keeps the verdict, or "" when no directory is fit to hold it.
std::string verdict_path();

}  // namespace vireo::kvm
