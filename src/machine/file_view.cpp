// SPDX-License-Identifier: Apache-2.0
#include "machine/file_view.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/owned_fd.h"

namespace vireo {

FileView::~FileView() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

Result<FileView> FileView::open(const std::string& path, const char* option) {
  std::string what = std::string(option) + " " + path;
  // A FIFO is not to be waited for.
  OwnedFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return fail_errno(what);
  struct stat st;
  if (fstat(fd.get(), &st)) return fail_errno(what);
  if (!S_ISREG(st.st_mode)) return fail(ErrorKind::kInvalid, what + ": not a regular file");
  if (st.st_size == 0) return fail(ErrorKind::kInvalid, what + ": the file is empty");
  // All of it will be read, and pages cost less together; what is too large for a kernel is refused without having been read.
  constexpr off_t kKernelSized = 256 << 20;
  void* map = mmap(nullptr, st.st_size, PROT_READ, MAP_PRIVATE | (st.st_size <= kKernelSized ? MAP_POPULATE : 0), fd.get(), 0);
  if (map == MAP_FAILED) return fail_errno(what);
  FileView view;
  view.bytes_ = {static_cast<const std::byte*>(map), static_cast<size_t>(st.st_size)};
  return view;
}

}  // namespace vireo
