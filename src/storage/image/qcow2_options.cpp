// SPDX-License-Identifier: Apache-2.0
#include "storage/image/qcow2_options.h"

#include <algorithm>
#include <bit>
#include <climits>

namespace vireo::storage {
namespace {

std::unexpected<Error> bad(const std::string& why) { return fail(ErrorKind::kInvalid, why, EINVAL); }

constexpr uint64_t kLeastL2Tables = 2, kLeastRefcountBlocks = 4;

Result<> take_caches(ImageSpec& spec, const qcow2::Header& header, qcow2::OpenConfig& config) {
  const uint64_t cluster = header.geometry.cluster_size();
  const auto both = TRY(spec.take_size("cache-size")), l2 = TRY(spec.take_size("l2-cache-size")), refcounts = TRY(spec.take_size("refcount-cache-size"));
  const uint64_t piece = (TRY(spec.take_size("l2-cache-entry-size"))).value_or(cluster);
  // More than all of the disk's L2 entries would never be used.
  const uint64_t all_l2 = qcow2::round_up((header.size + cluster - 1) / cluster * header.geometry.l2_entry_size(), cluster);
  uint64_t l2_size = std::min(all_l2, l2.value_or(config.l2_cache)), refcount_size = refcounts.value_or(0);
  if (both) {
    if (l2 && refcounts) return bad("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    if (l2 && *l2 > *both) return bad("l2-cache-size may not exceed cache-size");
    if (refcounts && *refcounts > *both) return bad("refcount-cache-size may not exceed cache-size");
    if (l2) refcount_size = *both - l2_size;
    else if (refcounts) l2_size = *both - refcount_size;
    else l2_size = *both - (refcount_size = *both >= all_l2 + kLeastRefcountBlocks * cluster ? *both - all_l2 : std::min(*both, kLeastRefcountBlocks * cluster));
  }
  if (piece < 512 || piece > cluster || !std::has_single_bit(piece))
    return bad("L2 cache entry size must be a power of two between 512 and the cluster size (" + std::to_string(cluster) + ")");
  if (l2_size / piece > INT_MAX) return bad("L2 cache size too big");
  if (refcount_size / cluster > INT_MAX) return bad("Refcount cache size too big");
  if (both || l2) config.l2_cache = std::max(l2_size, kLeastL2Tables * cluster);
  if (both || refcounts) config.refcount_cache = std::max(refcount_size, kLeastRefcountBlocks * cluster);
  return {};
}

Result<> take_overlap_checks(ImageSpec& spec) {
  const auto whole = spec.take("overlap-check"), templ = spec.take("overlap-check.template");
  for (const char* kind : {"main-header", "active-l1", "active-l2", "refcount-table", "refcount-block", "snapshot-table", "inactive-l1", "inactive-l2", "bitmap-directory"})
    TRY(spec.take_switch(std::string("overlap-check.") + kind));
  if (whole && templ && *whole != *templ)
    return bad("Conflicting values for qcow2 options 'overlap-check' ('" + *whole + "') and 'overlap-check.template' ('" + *templ + "')");
  for (const auto& value : {whole, templ})
    if (value && *value != "none" && *value != "constant" && *value != "cached" && *value != "all")
      return bad("Unsupported value '" + *value + "' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all");
  return {};
}

}  // namespace

Result<> take_qcow2_options(ImageSpec& spec, const qcow2::Header& header, qcow2::OpenConfig& config) {
  const auto lazy = TRY(spec.take_switch("lazy-refcounts"));
  for (const char* freed : {"pass-discard-request", "pass-discard-snapshot", "pass-discard-other"}) TRY(spec.take_switch(freed));
  TRY_VOID(take_caches(spec, header, config));
  if (auto interval = spec.take("cache-clean-interval")) {
    ImageSpec one({{"cache-clean-interval", *interval}});
    if (interval->starts_with("-") || (TRY(one.take_size("cache-clean-interval"))).value_or(0) > UINT_MAX) return bad("Cache clean interval too big");
  }
  if (lazy && *lazy && header.version < 3) return bad("Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
  if (lazy) config.lazy_refcounts = *lazy;
  return take_overlap_checks(spec);
}

Result<> check_switches(const ImageSpec& spec) {
  ImageSpec copy = spec;
  for (const char* name : {"read-only", "auto-read-only", "force-share", "cache.direct", "cache.no-flush", "cache.writeback"}) TRY(copy.take_switch(name));
  return {};
}

}  // namespace vireo::storage
