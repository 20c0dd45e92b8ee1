// SPDX-License-Identifier: Apache-2.0
// The folder with files of translated code: who may have written them, one writer at a time, files that are either whole or not there, and a bound on all
// of them. Code from such a file runs in this process, so it has to come from nobody but the same user.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "base/owned_fd.h"
#include "base/result.h"

namespace vireo::softkvm {

class CodeFolder {
 public:
  // Opens the folder, and makes it (0700) where only it is missing. `most`: bytes of all files in it.
  static Result<CodeFolder> open(const std::string& path, uint64_t most);

  const std::string& path() const { return path_; }
  uint64_t most() const { return most_; }

  // The file `name`; kNotFound where there is none. Notes that it is in use (its times).
  Result<OwnedFd> open_file(const std::string& name) const;
  // Held by who writes; kBusy: somebody else does.
  Result<OwnedFd> lock() const;
  // A new file without a place, and its place: then it is there as a whole, instead of an older one of this name.
  struct NewFile {
    OwnedFd fd;
    std::string temporary;
  };
  Result<NewFile> create() const;
  Result<> put(NewFile file, const std::string& name) const;
  void discard(const NewFile& file) const;
  // Removes the files that were used longest ago until the others are within the bound, and what writers that were killed have left. With the lock.
  void tidy(const std::string& keep) const;

  static constexpr const char* kSuffix = ".code";

 private:
  CodeFolder(OwnedFd fd, std::string path, uint64_t most) : fd_(std::move(fd)), path_(std::move(path)), most_(most) {}

  OwnedFd fd_;
  std::string path_;
  uint64_t most_;
};

}  // namespace vireo::softkvm
