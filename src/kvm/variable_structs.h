// SPDX-License-Identifier: Apache-2.0
// The ABI's structs that end in an array. In C++ the kernel's header gives some of them an empty struct of one byte before the array, which
// shifts the array and the size inside the request's number; here they are as C, and so the kernel, has them.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace vireo::kvm {

constexpr unsigned long request_number(unsigned direction, unsigned number, unsigned size) {
  return static_cast<unsigned long>(direction) << 30 | static_cast<unsigned long>(size) << 16 | KVMIO << 8 | number;
}
constexpr unsigned kWrite = 1, kRead = 2, kReadWrite = 3;

constexpr unsigned long kGetSupportedCpuid = request_number(kReadWrite, 0x05, 8);
constexpr unsigned long kSetCpuid2 = request_number(kWrite, 0x90, 8);
constexpr unsigned long kGetMsrIndexList = request_number(kReadWrite, 0x02, 4);
constexpr unsigned long kGetMsrs = request_number(kReadWrite, 0x88, 8);
constexpr unsigned long kGetXsave = request_number(kRead, 0xa4, 4096);
constexpr unsigned long kGetXsave2 = request_number(kRead, 0xcf, 4096);
constexpr unsigned long kSetXsave = request_number(kWrite, 0xa5, 4096);
constexpr unsigned long kSetGsiRouting = request_number(kWrite, 0x6a, 8);
constexpr size_t kXsaveSize = 4096;
constexpr unsigned long kSetMsrs = request_number(kWrite, 0x89, 8);

// A head whose first 32-bit word counts the elements of the array after it.
template <class Element, size_t HeadSize>
class Counted {
 public:
  explicit Counted(size_t room) : bytes_((HeadSize + room * sizeof(Element) + 7) / 8) { set_count(room); }
  explicit Counted(std::span<const Element> elements) : Counted(elements.size()) {
    memcpy(data() + HeadSize, elements.data(), elements.size_bytes());
  }
  std::byte* data() { return reinterpret_cast<std::byte*>(bytes_.data()); }
  uint32_t count() {
    uint32_t n;
    memcpy(&n, data(), sizeof n);
    return n;
  }
  void set_count(size_t room) {
    auto n = static_cast<uint32_t>(room);
    memcpy(data(), &n, sizeof n);
  }
  std::vector<Element> elements() {
    std::vector<Element> out(count());
    memcpy(out.data(), data() + HeadSize, out.size() * sizeof(Element));
    return out;
  }

 private:
  std::vector<uint64_t> bytes_;
};
using CpuidTable = Counted<kvm_cpuid_entry2, 8>;
using MsrList = Counted<uint32_t, 4>;
using RoutingTable = Counted<kvm_irq_routing_entry, 8>;

}  // namespace vireo::kvm
