// SPDX-License-Identifier: Apache-2.0
#include "preload/range.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "preload/descriptors.h"
#include "softkvm/softkvm.h"

namespace vireo::preload {
namespace {

// A number may be another file's by now.
bool is_still(ino_t file, int fd) {
  struct stat info;
  return ::fstat(fd, &info) == 0 && info.st_ino == file;
}

// A number that the VM has now: the program may have made a duplicate and closed the first. -1: none, it is gone.
int number_of(ino_t file, int vm) {
  if (is_still(file, vm)) return vm;
  return find_descriptor([&](int fd) { return is_still(file, fd) && softkvm::is_handle(fd); });
}

// Those that have the range, by numbers that they have now.
Vms vms_of(const Range& range) {
  Vms there;
  for (auto [file, number] : range.to)
    if (const int vm = number_of(file, number); vm >= 0) there.emplace_back(file, vm);
  return there;
}

}  // namespace

void take_back(const Range& range) {
  for (auto [file, vm] : vms_of(range)) softkvm::return_memory(vm, reinterpret_cast<void*>(range.begin), range.end - range.begin);
}

void lend(Range& range, ino_t file, int vm) {
  constexpr size_t kMany = 16;  // most are of VMs that are gone
  if (range.to.size() >= kMany) range.to = vms_of(range);
  if (softkvm::lend_memory(vm, reinterpret_cast<void*>(range.begin), range.end - range.begin, range.file->get(), range.offset) == 0) range.to.emplace_back(file, vm);
}

void lend_as(const Range& range, Range& part) {
  for (auto [file, vm] : vms_of(range)) lend(part, file, vm);
}

void drop_pages(const Range& r, uintptr_t begin, uintptr_t end) {
  char name[64] = {};
  if (::readlink(("/proc/self/fd/" + std::to_string(r.file->get())).c_str(), name, sizeof name - 1) < 0 || !::strstr(name, "vireo-guest-memory")) return;
  ::fallocate(r.file->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(r.offset + (begin - r.begin)), static_cast<off_t>(end - begin));
}

}  // namespace vireo::preload
