// SPDX-License-Identifier: Apache-2.0
// Spec: Intel SDM vol 2, CPUID; AMD APM vol 3, appendix E.
#include "machine/cpu_model.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace vireo {

struct CpuFeature {
  const char* name;
  uint32_t function;
  uint32_t kvm_cpuid_entry2::*word;
  unsigned bit;
};

namespace {

using Entry = kvm_cpuid_entry2;

// Features of the system; those of instructions follow the host.
constexpr CpuFeature kFeatures[] = {
    {"pcid", 1, &Entry::ecx, 17},       {"x2apic", 1, &Entry::ecx, 21},        {"tsc-deadline", 1, &Entry::ecx, 24},
    {"rdrand", 1, &Entry::ecx, 30},     {"fsgsbase", 7, &Entry::ebx, 0},       {"tsc-adjust", 7, &Entry::ebx, 1},
    {"smep", 7, &Entry::ebx, 7},        {"invpcid", 7, &Entry::ebx, 10},       {"rdseed", 7, &Entry::ebx, 18},
    {"smap", 7, &Entry::ebx, 20},       {"umip", 7, &Entry::ecx, 2},           {"pku", 7, &Entry::ecx, 3},
    {"la57", 7, &Entry::ecx, 16},       {"rdpid", 7, &Entry::ecx, 22},         {"pks", 7, &Entry::ecx, 31},
    {"nx", 0x80000001, &Entry::edx, 20}, {"pdpe1gb", 0x80000001, &Entry::edx, 26}, {"rdtscp", 0x80000001, &Entry::edx, 27},
};

const CpuFeature* find_feature(const std::string& name) {
  for (const CpuFeature& f : kFeatures)
    if (name == f.name) return &f;
  return nullptr;
}

bool has(const std::vector<Entry>& entries, const CpuFeature& f) {
  return std::any_of(entries.begin(), entries.end(),
                     [&](const Entry& e) { return e.function == f.function && e.index == 0 && e.*f.word >> f.bit & 1; });
}

void remove(std::vector<Entry>& entries, const CpuFeature& f) {
  for (Entry& e : entries)
    if (e.function == f.function && e.index == 0) e.*f.word &= ~(1u << f.bit);
}

// PKRU's state component goes with PKU; what is left decides the size of the XSAVE area (SDM vol 1, 13.2).
void remove_pkru_state(std::vector<Entry>& entries) {
  constexpr uint32_t kXsave = 0xd, kPkru = 9;
  std::erase_if(entries, [](const Entry& e) { return e.function == kXsave && e.index == kPkru; });
  uint32_t end = 576;
  for (const Entry& e : entries)
    if (e.function == kXsave && e.index >= 2 && e.eax && !(e.ecx & 1)) end = std::max(end, e.eax + e.ebx);
  for (Entry& e : entries) {
    if (e.function != kXsave || e.index || !(e.eax >> kPkru & 1)) continue;
    e.eax &= ~(1u << kPkru);
    e.ecx = end;
  }
}

}  // namespace

Result<CpuModel> parse_cpu_model(const std::string& text) {
  auto refuse = [&](const std::string& why) { return fail(ErrorKind::kInvalid, "--cpu " + text + ": " + why); };
  CpuModel model;
  bool first = true;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find(',', at), text.size());
    std::string word = text.substr(at, end - at);
    at = end + 1;
    if (first) {
      first = false;
      if (word == "max") model.base = CpuModel::Base::kMax;
      else if (word != "host") return refuse("begins with host or max");
    } else if (word.starts_with("vendor=")) {
      model.vendor = word.substr(7);
      if (model.vendor.size() != 12) return refuse("a vendor has 12 characters, as GenuineIntel and AuthenticAMD");
    } else if (word.starts_with("physical-bits=")) {
      unsigned bits = 0;
      const char* last = word.data() + word.size();
      auto [stop, error] = std::from_chars(word.data() + 14, last, bits);
      if (error != std::errc() || stop != last || bits < 36 || bits > 52) return refuse("physical-bits is 36 to 52");
      model.physical_bits = bits;
    } else if (word.starts_with("+") || word.starts_with("-")) {
      const CpuFeature* feature = find_feature(word.substr(1));
      if (!feature) return refuse("unknown feature " + word.substr(1));
      model.changes.emplace_back(feature, word[0] == '+');
    } else {
      return refuse("vendor=NAME, physical-bits=N, +FEATURE or -FEATURE, not '" + word + "'");
    }
  }
  return model;
}

Result<std::vector<Entry>> apply_cpu_model(const CpuModel& model, std::vector<Entry> entries) {
  const std::vector<Entry> offer = entries;
  const CpuFeature *pku = find_feature("pku"), *pks = find_feature("pks");
  if (model.base == CpuModel::Base::kHost)
    for (const CpuFeature* f : {pku, pks}) remove(entries, *f);
  for (auto [feature, wanted] : model.changes) {
    if (wanted && !has(offer, *feature))
      return fail(ErrorKind::kInvalid, std::string("--cpu +") + feature->name + ": the hypervisor does not offer it");
    remove(entries, *feature);
    if (!wanted) continue;
    for (Entry& e : entries)
      if (e.function == feature->function && e.index == 0) e.*feature->word |= 1u << feature->bit;
  }
  if (!has(entries, *pku)) remove_pkru_state(entries);
  for (Entry& e : entries) {
    if (!model.vendor.empty() && (e.function == 0 || e.function == 0x80000000)) {
      std::memcpy(&e.ebx, model.vendor.data(), 4);
      std::memcpy(&e.edx, model.vendor.data() + 4, 4);
      std::memcpy(&e.ecx, model.vendor.data() + 8, 4);
    }
    if (!model.physical_bits || e.function != 0x80000008) continue;
    if (*model.physical_bits > (e.eax & 0xff))
      return fail(ErrorKind::kInvalid, "--cpu physical-bits=" + std::to_string(*model.physical_bits) + ": the host has " +
                                           std::to_string(e.eax & 0xff));
    e.eax = (e.eax & ~0xffu) | *model.physical_bits;
  }
  return entries;
}

}  // namespace vireo
