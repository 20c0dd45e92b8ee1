// SPDX-License-Identifier: Apache-2.0
#include "kvm/api.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace vireo::kvm {
namespace {

int kernel_open() {
  int fd = ::open("/dev/kvm", O_RDWR | O_CLOEXEC);
  return fd < 0 ? -errno : fd;
}

int kernel_ioctl(int fd, unsigned long request, uintptr_t argument) {
  int result = ::ioctl(fd, request, argument);
  return result < 0 ? -errno : result;
}

int kernel_close(int fd) { return ::close(fd) ? -errno : 0; }

constexpr Api kKernel{.name = "kvm",
                      .open_system = kernel_open,
                      .ioctl = kernel_ioctl,
                      .close = kernel_close,
                      .interrupt_this_thread = nullptr,
                      .notice_write = nullptr,
                      .add_doorbell = nullptr,
                      .remove_doorbell = nullptr,
                      .lend_memory = nullptr,
                      .allow_large_pages = nullptr,
                      .name_code = nullptr,
                      .keep_code = nullptr,
                      .expect_foreign_writes = nullptr};

}  // namespace

const Api& kernel_api() { return kKernel; }

Result<int> Handle::call(unsigned long request, uintptr_t argument, const char* what) const {
  int result = api_->ioctl(fd_, request, argument);
  if (result < 0) return fail_errno(std::string(api_->name) + ": " + what, -result);
  return result;
}

}  // namespace vireo::kvm
