// SPDX-License-Identifier: Apache-2.0
#include "machine/table_loader.h"

#include <cstring>

#include "base/log.h"

namespace vireo {
namespace {

enum Command : uint32_t { kAllocate = 1, kAddPointer = 2, kAddChecksum = 3 };

}  // namespace

size_t TableLoader::begin(uint32_t command) {
  size_t at = script_.size();
  script_.resize(at + kCommandSize, 0);
  number(at, command);
  return at;
}

void TableLoader::name(size_t& at, std::string_view text) {
  if (text.size() >= kNameRoom) panic("table loader: a name of %zu bytes", text.size());
  memcpy(&script_[at], text.data(), text.size());
  at += kNameRoom;
}

void TableLoader::number(size_t& at, uint32_t value) {
  for (int i = 0; i < 4; i++) script_[at++] = static_cast<uint8_t>(value >> 8 * i);
}

void TableLoader::allocate(std::string_view file, uint32_t align, Zone zone) {
  size_t at = begin(kAllocate);
  name(at, file);
  number(at, align);
  script_[at] = static_cast<uint8_t>(zone);
}

void TableLoader::add_pointer(std::string_view file, std::string_view target, uint32_t offset, uint8_t size) {
  size_t at = begin(kAddPointer);
  name(at, file);
  name(at, target);
  number(at, offset);
  script_[at] = size;
}

void TableLoader::add_checksum(std::string_view file, uint32_t byte, uint32_t start, uint32_t length) {
  size_t at = begin(kAddChecksum);
  name(at, file);
  number(at, byte);
  number(at, start);
  number(at, length);
}

TableLoader TableLoader::of(const AcpiBlob& blob, std::string_view rsdp, std::string_view tables) {
  TableLoader loader;
  loader.allocate(tables, AcpiBlob::kAlign, Zone::kHigh);
  loader.allocate(rsdp, 16, Zone::kFSegment);
  for (auto [offset, size] : blob.pointers) loader.add_pointer(tables, tables, offset, size);
  for (auto [start, length, at] : blob.checksums) loader.add_checksum(tables, at, start, length);
  for (auto [offset, size] : blob.rsdp_pointers) loader.add_pointer(rsdp, tables, offset, size);
  for (auto [start, length, at] : blob.rsdp_checksums) loader.add_checksum(rsdp, at, start, length);
  return loader;
}

}  // namespace vireo
