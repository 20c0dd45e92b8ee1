// SPDX-License-Identifier: Apache-2.0
// The anti-forensic splitter: a key is blown up to many stripes, all of which are needed to get it back.
// Spec: LUKS On-Disk Format Specification 1.2.3, 2.4.
#pragma once

#include "storage/crypto/digest.h"

namespace vireo::storage {

Result<SecretBytes> af_split(const std::string& hash, std::span<const std::byte> key, unsigned stripes);
Result<SecretBytes> af_merge(const std::string& hash, std::span<const std::byte> material, unsigned stripes);

}  // namespace vireo::storage
