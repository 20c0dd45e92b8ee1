// SPDX-License-Identifier: Apache-2.0
// The instructions' names as text.
#include "softkvm/cpu/mnemonic.h"

namespace vireo::softkvm {
namespace {

constexpr const char* kNames[] = {
    "invalid",
#define VIREO_NAME(name, text) text,
    VIREO_MNEMONICS(VIREO_NAME)
#undef VIREO_NAME
};

}  // namespace

const char* mnemonic_name(Mnemonic m) { return m < Mnemonic::kCount ? kNames[unsigned(m)] : kNames[0]; }

}  // namespace vireo::softkvm
