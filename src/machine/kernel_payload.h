// SPDX-License-Identifier: Apache-2.0
// What a bzImage has its kernel packed with. Spec: the kernel's Documentation/x86/boot.rst, "payload_offset"; the formats' own.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "base/result.h"

namespace vireo {

enum class Packing { kGzip, kXz, kLzma, kLz4, kZstd };

// By the first bytes. Nothing: a method that we do not unpack (bzip2, LZO), or none at all.
std::optional<Packing> packing_of(std::span<const std::byte> payload);

struct Unpacked {
  size_t size = 0;        // bytes that came
  bool complete = false;  // the payload has ended there, and its checksum, where it has one, is right
};

// Unpacks from the start until `out`, which is not empty, is full or the payload ends. The payload is whatever a file says: what breaks its format
// is kCorrupt. xz and LZMA take up to 512 MiB for their dictionary, others next to nothing;
// of LZ4 several threads unpack a block each, where the whole is wanted.
Result<Unpacked> unpack(Packing packing, std::span<const std::byte> payload, std::span<std::byte> out);

}  // namespace vireo
