// SPDX-License-Identifier: Apache-2.0
// Hashes by the names that LUKS headers use, and password hashing by them. Spec: RFC 8018, 5.2 (PBKDF2).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "storage/crypto/secret_bytes.h"

namespace vireo::storage {

// Bytes of its output; an error for a hash that is not known.
Result<size_t> digest_size(const std::string& hash);
// `out` has digest_size() bytes.
Result<> digest(const std::string& hash, std::span<const std::byte> first, std::span<const std::byte> second, std::span<std::byte> out);
Result<> pbkdf2(const std::string& hash, std::span<const std::byte> password, std::span<const std::byte> salt, uint32_t iterations,
                std::span<std::byte> out);
// Iterations that take so much processor time here for a key of that many bytes; at least 1000, which is what 0 gives.
Result<uint32_t> pbkdf2_iterations(const std::string& hash, size_t key_bytes, uint64_t milliseconds);
void random_bytes(std::span<std::byte> out);

}  // namespace vireo::storage
