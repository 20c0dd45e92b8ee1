// SPDX-License-Identifier: Apache-2.0
// A file of KVM_GET_STATS_FD as `vireo stat` gets it from another process: all of the input is the file.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "kvm/statistics.h"

using namespace vireo;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const int kept = memfd_create("fuzz", MFD_CLOEXEC);
  if (ftruncate(kept, 0) || pwrite(kept, data, size, 0) != static_cast<ssize_t>(size)) abort();
  auto file = kvm::StatisticsFile::open(OwnedFd(dup(kept)));
  if (!file) return 0;
  (void)file->vcpu();
  size_t count = 0;
  for (const kvm::Counter& counter : file->counters()) count += counter.count;
  if (auto values = file->read(); values && values->size() != count) abort();
  return 0;
}
