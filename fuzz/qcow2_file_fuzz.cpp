// SPDX-License-Identifier: Apache-2.0
// A whole qcow2 file as it is: what qcow2_fuzz's patches on our own images cannot become (other layouts, header extensions,
// version 2, more snapshots and bitmaps). fuzz/qcow2_seeds makes the files to begin with, by Debian's qemu-img. The last byte
// says what is done with it.
#include <cstdint>
#include <cstring>

#include "base/log.h"
#include "qcow2_exercise.h"

using namespace vireo;
using namespace vireo::storage;
using namespace vireo::storage::qcow2;

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  set_log_level(LogLevel::kError);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  auto file = std::make_unique<MemoryFile>();
  file->bytes().resize(size - 1);
  memcpy(file->bytes().data(), data, size - 1);
  try_image(std::move(file), data[size - 1] & 3, data[size - 1] & 4);
  return 0;
}
