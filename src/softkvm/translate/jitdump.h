// SPDX-License-Identifier: Apache-2.0
// jit-PID.dump: translated code with its bytes and its times, from which `perf inject --jit` makes files that `perf report` and `perf annotate`
// take for libraries. Times are of CLOCK_MONOTONIC, perf's -k mono.
// Spec: Linux, tools/perf/Documentation/jitdump-specification.txt, version 1 of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/owned_fd.h"
#include "base/result.h"

namespace vireo::softkvm {

class Jitdump {
 public:
  // FOLDER/jit-PID.dump, which nobody else can read.
  static Result<std::unique_ptr<Jitdump>> create(const std::string& folder);
  ~Jitdump();

  // JIT_CODE_LOAD of `size` bytes at `code`, which may be read there. One call at a time.
  void add(const void* code, size_t size, const std::string& name);

  const std::string& path() const { return path_; }

 private:
  Jitdump(OwnedFd fd, std::string path, void* mark) : fd_(std::move(fd)), path_(std::move(path)), mark_(mark) {}
  OwnedFd fd_;
  std::string path_;
  void* mark_;  // perf record notes executable mappings, and so finds the file
  uint64_t count_ = 0;
};

}  // namespace vireo::softkvm
