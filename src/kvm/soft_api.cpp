// SPDX-License-Identifier: Apache-2.0
// softkvm's functions as an Api table; built only where the library is.
#include "kvm/api.h"
#include "softkvm/softkvm.h"

namespace vireo::kvm {
namespace {

softkvm::Doorbell translate(const DirectDoorbell& d) {
  return {.address = d.address, .size = d.size, .pio = d.pio, .match = d.match, .value = d.value, .call = d.call, .context = d.context};
}
int add_doorbell(int vm_fd, const DirectDoorbell& doorbell) { return softkvm::add_doorbell(vm_fd, translate(doorbell)); }
int remove_doorbell(int vm_fd, const DirectDoorbell& doorbell) { return softkvm::remove_doorbell(vm_fd, translate(doorbell)); }

Result<> name_code(const CodeNames& wanted) {
  return softkvm::name_code({.perf_map = wanted.perf_map, .jitdump_folder = wanted.jitdump_folder, .symbols = wanted.symbols});
}

Result<> keep_code(const CodeFolder& wanted) { return softkvm::keep_code(wanted.path, wanted.most); }

void expect_foreign_writes() {
  softkvm::expect_unseen_writes();
  softkvm::expect_foreign_writes();
}

constexpr Api kSoft{"soft",
                    softkvm::open_system,
                    softkvm::ioctl,
                    softkvm::close,
                    softkvm::interrupt_this_thread,
                    softkvm::notice_write,
                    add_doorbell,
                    remove_doorbell,
                    softkvm::lend_memory,
                    softkvm::allow_large_pages,
                    name_code,
                    keep_code,
                    expect_foreign_writes};

}  // namespace

const Api* soft_api() { return &kSoft; }

}  // namespace vireo::kvm
