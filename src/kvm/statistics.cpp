// SPDX-License-Identifier: Apache-2.0
#include "kvm/statistics.h"

#include <linux/kvm.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <set>

namespace vireo::kvm {
namespace {

Result<> read_at(int fd, void* out, size_t size, uint64_t at) {
  auto* bytes = static_cast<char*>(out);
  while (size) {
    ssize_t got = pread(fd, bytes, size, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno("reading statistics");
    if (got == 0) return fail(ErrorKind::kCorrupt, "statistics: the file ends at " + std::to_string(at) + ", before what it says it has");
    bytes += got, at += static_cast<size_t>(got), size -= static_cast<size_t>(got);
  }
  return {};
}

// A name goes to a terminal and into JSON.
Result<std::string> text(const char* bytes, size_t room, const char* what) {
  std::string out(bytes, std::find(bytes, bytes + room, '\0'));
  const bool plain = std::ranges::all_of(out, [](char c) { return c > ' ' && c < 0x7f; });
  if (out.empty() || out.size() == room || !plain) return fail(ErrorKind::kCorrupt, std::string("statistics: ") + what + " is no plain text");
  return out;
}

Counter::Type type_of(uint32_t flags) {
  switch (flags & KVM_STATS_TYPE_MASK) {
    case KVM_STATS_TYPE_CUMULATIVE: return Counter::Type::kCumulative;
    case KVM_STATS_TYPE_INSTANT: return Counter::Type::kInstant;
    case KVM_STATS_TYPE_PEAK: return Counter::Type::kPeak;
    case KVM_STATS_TYPE_LINEAR_HIST: return Counter::Type::kLinearHistogram;
    case KVM_STATS_TYPE_LOG_HIST: return Counter::Type::kLogHistogram;
    default: return Counter::Type::kOther;
  }
}

Counter::Unit unit_of(uint32_t flags) {
  constexpr uint32_t kBoolean = 4u << KVM_STATS_UNIT_SHIFT;  // Linux 6.0
  switch (flags & KVM_STATS_UNIT_MASK) {
    case KVM_STATS_UNIT_NONE: return Counter::Unit::kNone;
    case KVM_STATS_UNIT_BYTES: return Counter::Unit::kBytes;
    case KVM_STATS_UNIT_SECONDS: return Counter::Unit::kSeconds;
    case KVM_STATS_UNIT_CYCLES: return Counter::Unit::kCycles;
    case kBoolean: return Counter::Unit::kBoolean;
    default: return Counter::Unit::kOther;
  }
}

}  // namespace

Result<StatisticsFile> StatisticsFile::open(OwnedFd fd) {
  kvm_stats_header header;
  TRY_VOID(read_at(fd.get(), &header, sizeof header, 0));
  if (header.flags != 0) return fail(ErrorKind::kUnsupported, "statistics: flags " + std::to_string(header.flags) + " are not known");
  if (header.name_size == 0 || header.name_size > kLongestName || header.num_desc > kMostCounters)
    return fail(ErrorKind::kCorrupt, "statistics: " + std::to_string(header.num_desc) + " counters with names of " + std::to_string(header.name_size) + " bytes");
  StatisticsFile file;
  std::vector<char> bytes(header.name_size);
  TRY_VOID(read_at(fd.get(), bytes.data(), bytes.size(), header.id_offset));
  file.id_ = TRY(text(bytes.data(), bytes.size(), "the file's name"));
  const size_t size = sizeof(kvm_stats_desc) + header.name_size;
  bytes.resize(size * header.num_desc);
  TRY_VOID(read_at(fd.get(), bytes.data(), bytes.size(), header.desc_offset));
  std::set<std::string> names;
  for (uint32_t i = 0; i < header.num_desc; i++) {
    struct {  // kvm_stats_desc up to its name, which C++ does not know as an array without a size
      uint32_t flags;
      int16_t exponent;
      uint16_t size;
      uint32_t offset, bucket_size;
    } desc;
    static_assert(sizeof desc == sizeof(kvm_stats_desc));
    std::copy_n(&bytes[size * i], sizeof desc, reinterpret_cast<char*>(&desc));
    Counter counter;
    counter.name = TRY(text(&bytes[size * i + sizeof desc], header.name_size, "a counter's name"));
    counter.type = type_of(desc.flags);
    counter.unit = unit_of(desc.flags);
    counter.base = (desc.flags & KVM_STATS_BASE_MASK) == KVM_STATS_BASE_POW2 ? 2 : 10;
    counter.exponent = desc.exponent;
    counter.bucket_size = desc.bucket_size;
    counter.count = desc.size;
    if (desc.size == 0 || desc.size > kMostBuckets || (desc.size > 1 && counter.type < Counter::Type::kLinearHistogram))
      return fail(ErrorKind::kCorrupt, "statistics: " + counter.name + " has " + std::to_string(desc.size) + " values");
    if (std::abs(counter.exponent) > 30) return fail(ErrorKind::kCorrupt, "statistics: " + counter.name + " has exponent " + std::to_string(counter.exponent));
    if (!names.insert(counter.name).second) return fail(ErrorKind::kCorrupt, "statistics: " + counter.name + " is there twice");
    file.offsets_.push_back(uint64_t{header.data_offset} + desc.offset);
    file.counters_.push_back(std::move(counter));
  }
  file.fd_ = std::move(fd);
  return file;
}

int StatisticsFile::vcpu() const {
  const size_t at = id_.find("/vcpu-");
  int number = -1;
  if (at == std::string::npos) return -1;
  const char *first = id_.data() + at + 6, *last = id_.data() + id_.size();
  auto [end, error] = std::from_chars(first, last, number);
  return error == std::errc() && end == last && number >= 0 ? number : -1;
}

Result<std::vector<uint64_t>> StatisticsFile::read() const {
  if (counters_.empty()) return std::vector<uint64_t>();
  // Mostly all of it lies together, and then comes by one system call.
  const uint64_t first = *std::ranges::min_element(offsets_);
  uint64_t end = 0;
  size_t count = 0;
  for (size_t i = 0; i < counters_.size(); i++) end = std::max(end, offsets_[i] + 8 * counters_[i].count), count += counters_[i].count;
  const bool together = end - first <= 16 * count;
  std::vector<char> bytes(together ? end - first : 0);
  if (together) TRY_VOID(read_at(fd_.get(), bytes.data(), bytes.size(), first));
  std::vector<uint64_t> values(count);
  size_t at = 0;
  for (size_t i = 0; i < counters_.size(); i++) {
    const size_t size = 8 * counters_[i].count;
    if (together) std::copy_n(&bytes[offsets_[i] - first], size, reinterpret_cast<char*>(&values[at]));
    else TRY_VOID(read_at(fd_.get(), &values[at], size, offsets_[i]));
    at += counters_[i].count;
  }
  return values;
}

}  // namespace vireo::kvm
