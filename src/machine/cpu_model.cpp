// SPDX-License-Identifier: Apache-2.0
// Spec: Intel SDM vol 2, CPUID; AMD APM vol 3, appendix E.
#include "machine/cpu_model.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace vireo {

namespace {

using Entry = kvm_cpuid_entry2;

bool is(const Entry& e, const CpuFeature& f) { return e.function == f.function && e.index == f.index; }

bool has(const std::vector<Entry>& entries, const char* name) {
  const CpuFeature& f = *find_cpu_feature(name);
  return std::any_of(entries.begin(), entries.end(), [&](const Entry& e) { return is(e, f) && e.*f.word >> f.bit & 1; });
}

void put(std::vector<Entry>& entries, const CpuFeature& f, bool there) {
  for (Entry& e : entries)
    if (is(e, f)) e.*f.word = (e.*f.word & ~(1u << f.bit)) | uint32_t{there} << f.bit;
}

// State components go with the features that have them; those left decide the size of the XSAVE area (SDM vol 1, 13.2).
void fit_xsave(std::vector<Entry>& entries) {
  constexpr uint32_t kXsave = 0xd;
  if (!has(entries, "xsave")) {
    std::erase_if(entries, [](const Entry& e) { return e.function == kXsave; });
    return;
  }
  uint32_t allowed = ~0u;
  if (!has(entries, "avx")) allowed &= ~4u;
  if (!has(entries, "avx512f")) allowed &= ~0xe0u;
  if (!has(entries, "pku")) allowed &= ~(1u << 9);
  std::erase_if(entries, [&](const Entry& e) { return e.function == kXsave && e.index >= 2 && e.index < 32 && !(allowed >> e.index & 1); });
  uint32_t end = 576;
  for (const Entry& e : entries)
    if (e.function == kXsave && e.index >= 2 && e.eax && !(e.ecx & 1)) end = std::max(end, e.eax + e.ebx);
  for (Entry& e : entries) {
    if (e.function != kXsave || e.index || !(e.eax & ~allowed)) continue;
    e.eax &= allowed;
    e.ecx = end;
  }
}

void set_vendor(std::vector<Entry>& entries, const std::string& vendor) {
  for (Entry& e : entries) {
    if (e.function != 0 && e.function != 0x80000000) continue;
    std::memcpy(&e.ebx, vendor.data(), 4);
    std::memcpy(&e.edx, vendor.data() + 4, 4);
    std::memcpy(&e.ecx, vendor.data() + 8, 4);
  }
}

// What of a feature word no name decides: x2APIC, which there always is, OSXSAVE, the hypervisor's bit; HTT and CmpLegacy, which follow the
// topology; ARAT.
struct Kept {
  uint32_t function, index, eax, ebx, ecx, edx;
};
constexpr Kept kFeatureWords[] = {
    {1, 0, ~0u, ~0u, 1u << 21 | 1u << 27 | 1u << 31, 1u << 28}, {6, 0, 1u << 2, 0, 0, 0},        {7, 0, ~0u, 0, 0, 0}, {7, 1, 0, 0, 0, 0}, {7, 2, 0, 0, 0, 0},
    {0xd, 1, 0, ~0u, ~0u, ~0u},                                 {0x80000001, 0, ~0u, ~0u, 2, 0}, {0x80000007, 0, 0, 0, 0, 0}, {0x80000008, 0, ~0u, 0, ~0u, ~0u},
};

std::string words_of(const std::string& text, size_t& at) {
  const size_t end = std::min(text.find(' ', at), text.size());
  std::string word = text.substr(at, end - at);
  at = end + 1;
  return word;
}

// Leaves of what is offered exactly what the name says.
Result<> apply_named(const NamedCpu& cpu, const std::string& vendor, std::vector<Entry>& entries) {
  const std::vector<Entry> offer = entries;
  const std::string features = cpu.all_features();
  std::string missing;
  for (Entry& e : entries)
    for (const Kept& k : kFeatureWords)
      if (e.function == k.function && e.index == k.index) e.eax &= k.eax, e.ebx &= k.ebx, e.ecx &= k.ecx, e.edx &= k.edx;
  for (size_t at = 0; at < features.size();) {
    const std::string name = words_of(features, at);
    if (name.empty()) continue;
    if (has(offer, name.c_str())) put(entries, *find_cpu_feature(name), true);
    else missing += " " + name;
  }
  if (!missing.empty()) return fail(ErrorKind::kInvalid, std::string("--cpu ") + cpu.name + ": the hypervisor does not offer" + missing);
  if (!vendor.empty()) set_vendor(entries, vendor);
  const bool amd = std::any_of(entries.begin(), entries.end(), [](const Entry& e) { return e.function == 0 && e.ebx == 0x68747541; });
  const uint32_t basic = has(entries, "xsave") ? 0xd : 0xb, extended = amd ? 0x8000001e : 0x80000008;
  std::erase_if(entries, [&](const Entry& e) {
    return e.function < 0x40000000 ? e.function > basic : e.function >= 0x80000000 && e.function > extended;
  });
  constexpr uint32_t kAmdCopies = 0x0183f3ff;  // of leaf 1's EDX in 0x80000001: APM vol 3, E.4.2
  uint32_t copies = 0;
  for (const Entry& e : entries)
    if (e.function == 1 && amd) copies = e.edx & kAmdCopies;
  char brand[48] = {};
  std::strncpy(brand, cpu.brand, sizeof brand - 1);
  for (Entry& e : entries) {
    if (e.function == 0) e.eax = basic;
    if (e.function == 1)
      e.eax = cpu.stepping | (cpu.model & 15) << 4 | std::min(cpu.family, 15u) << 8 | cpu.model >> 4 << 16 | (cpu.family > 15 ? (cpu.family - 15) << 20 : 0);
    if (e.function == 7 && !e.index) e.eax = 0;
    if (e.function == 0x80000000) e.eax = std::min(e.eax, extended);
    if (e.function == 0x80000001) e.edx |= copies;
    if (e.function >= 0x80000002 && e.function <= 0x80000004) {
      const char* part = brand + (e.function - 0x80000002) * 16;
      for (uint32_t Entry::*word : {&Entry::eax, &Entry::ebx, &Entry::ecx, &Entry::edx}) std::memcpy(&(e.*word), part, 4), part += 4;
    }
  }
  return {};
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
      else if ((model.named = find_named_cpu(word))) model.base = CpuModel::Base::kNamed;
      else if (word != "host") return refuse("begins with host, max or a CPU's name");
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
      const CpuFeature* feature = find_cpu_feature(word.substr(1));
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
  std::string vendor = model.vendor;
  if (model.base == CpuModel::Base::kHost)
    for (const char* name : {"pku", "pks"}) put(entries, *find_cpu_feature(name), false);
  if (model.base == CpuModel::Base::kNamed) {
    if (vendor.empty()) vendor = model.named->vendor;
    TRY_VOID(apply_named(*model.named, vendor, entries));
  }
  for (auto [feature, wanted] : model.changes) {
    if (wanted && !has(offer, feature->name))
      return fail(ErrorKind::kInvalid, std::string("--cpu +") + feature->name + ": the hypervisor does not offer it");
    put(entries, *feature, wanted);
  }
  fit_xsave(entries);
  if (!vendor.empty()) set_vendor(entries, vendor);
  for (Entry& e : entries) {
    if (!model.physical_bits || e.function != 0x80000008) continue;
    if (*model.physical_bits > (e.eax & 0xff))
      return fail(ErrorKind::kInvalid, "--cpu physical-bits=" + std::to_string(*model.physical_bits) + ": the host has " +
                                           std::to_string(e.eax & 0xff));
    e.eax = (e.eax & ~0xffu) | *model.physical_bits;
  }
  return entries;
}

}  // namespace vireo
