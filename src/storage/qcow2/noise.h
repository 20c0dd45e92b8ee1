// SPDX-License-Identifier: Apache-2.0
// Whether bytes look like noise (encrypted or compressed data), which a compressor would spend its longest time on for nothing.
#pragma once

#include <cstddef>
#include <span>

namespace vireo::storage::qcow2 {

// True only where entropy coding would gain less than its own tables cost and no stretch of a few hundred bytes comes twice.
bool is_noise(std::span<const std::byte> bytes);

}  // namespace vireo::storage::qcow2
