// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/stored_record.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "softkvm/cpu/decoder.h"
#include "softkvm/translate/mode.h"

namespace vireo::softkvm {
namespace {

uint32_t word_at(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

using Made = RecordMaker::Made;

// What a noted block is translated from, and looked for by: a page that has its bytes, at guest physical address 0.
struct NotedSource {
  NotedSource(const MadeBlock& made, const uint8_t* page) : copy(page), source{copy, made.offset, made.offset, nullptr, made.mode, 0} {
    if (!made.straddle) return;
    std::memcpy(cut, made.source(), made.straddle);
    source.straddle = cut;
  }
  NotedSource(const NotedSource&) = delete;
  NotedSource& operator=(const NotedSource&) = delete;

  PageCopy copy;
  uint8_t cut[16] = {};
  Source source;
};

void translate_page(const VcpuState& state, const MadeBlock& made, const uint8_t* page, uint8_t* room, Made& out) {
  NotedSource from(made, page);
  out.notes.side_count = out.notes.site_count = 0;
  const size_t used = translate(state, from.source, room, 0, out.block, out.notes);
  out.code = {room, used};
}

bool same_shape(const Made& a, const Made& b) {
  auto sides = [](const SideEntry& x, const SideEntry& y) { return std::memcmp(&x, &y, sizeof x) == 0; };
  auto sites = [](const LinkSite& x, const LinkSite& y) { return x.at == y.at && x.unlinked == y.unlinked && x.flags == y.flags && x.ungrouped == y.ungrouped && x.target == y.target; };
  return a.code.size() == b.code.size() && a.block.linked_entry == b.block.linked_entry && a.block.guest_begin == b.block.guest_begin &&
         a.block.guest_end == b.block.guest_end && a.notes.instructions == b.notes.instructions &&
         std::ranges::equal(a.notes.all_side(), b.notes.all_side(), sides) && std::ranges::equal(a.notes.all_sites(), b.notes.all_sites(), sites);
}

}  // namespace

void RecordMaker::lay_out(const MadeBlock& made) {
  std::memset(page_, 0, sizeof page_);
  const uint8_t* from = made.source();
  for (unsigned i = 0; i < made.range_count; i++) {
    const LookedAt& range = made.ranges()[i];
    std::memcpy(page_ + range.at, from, std::min<size_t>(range.size, 4096 - range.at));
    from += range.size;
  }
}

// Is the field at a page offset in every range that has a byte of it?
bool RecordMaker::whole_in_ranges(const MadeBlock& made, unsigned at) const {
  for (unsigned i = 0; i < made.range_count; i++) {
    const LookedAt& range = made.ranges()[i];
    if (at < range.at + range.size && range.at < at + 4 && (at < range.at || at + 4 > range.at + range.size)) return false;
  }
  return true;
}

// The 32-bit displacements and immediates of all instructions in the ranges that may become others.
void RecordMaker::find_candidates(const MadeBlock& made) {
  candidates_.clear();
  if (made.straddle || (made.mode & kModeCodeMask) != kModeCode64) return;
  auto add = [&](unsigned at, StoredField::Kind kind) {
    const uint32_t value = word_at(page_ + at);
    if (!StoredField::may_be(kind, value) || !whole_in_ranges(made, at)) return;
    for (const Candidate& c : candidates_)
      if (c.at < at + 4 && at < c.at + 4u) return;
    candidates_.push_back({static_cast<uint16_t>(at), static_cast<uint16_t>(kind), value});
  };
  for (unsigned i = 0; i < made.range_count; i++) {
    const unsigned end = made.ranges()[i].at + made.ranges()[i].size;
    Insn insn;
    for (unsigned at = made.ranges()[i].at; at < end; at += insn.length) {
      if (decode(page_ + at, end - at, CodeMode::k64, insn) != DecodeStatus::kOk) break;
      const unsigned behind = at + insn.length - insn.immediate_size - insn.immediate2_size;
      const bool relative = insn.operand_count && insn.operands[0].kind == OperandKind::kRelative;
      if (insn.immediate2_size) continue;
      if (insn.displacement_size == 4 && insn.has_modrm && insn.address_size == 8) add(behind - 4, insn.rip_relative ? StoredField::kFar : StoredField::kAddress);
      if (insn.immediate_size == 4) add(behind, relative ? StoredField::kFar : StoredField::kAddress);
      if (insn.immediate_size == 8 && word_at(page_ + behind + 4) == ~0u) add(behind, StoredField::kAddress);
    }
  }
  std::ranges::sort(candidates_, {}, &Candidate::at);
  if (candidates_.size() > kMostFields / 4) candidates_.clear();
}

void RecordMaker::look_for_fields(const MadeBlock& made, const Made& first) {
  const std::span<const uint8_t> code = first.code;
  fields_.clear();
  patches_.clear();
  if (candidates_.empty()) return;
  const LookedAt& own = made.ranges()[0];
  struct Found {
    uint32_t host;
    size_t candidate;
    bool operator==(const Found&) const = default;
  };
  std::vector<Found> before;
  auto now = std::make_unique<Made>();
  const std::vector<uint8_t> page(page_, page_ + sizeof page_);
  for (unsigned round = 0; round < 2; round++) {
    // Each number gets another one, with a difference that no other has and whose lowest byte is not zero: so the first byte that is another in the code is
    // the number's first.
    for (size_t i = 0; i < candidates_.size(); i++) {
      Candidate& c = candidates_[i];
      const uint32_t flips = (round ? 0x155501u : 0x2a31u) + static_cast<uint32_t>(i) * 0x20406u;
      uint32_t value = c.value ^ flips ^ (round && c.kind == StoredField::kAddress ? 0x12000000u : 0);
      if (!StoredField::may_become(c.kind, c.value, value)) value = c.value ^ (flips & 0xffff);
      if (!StoredField::may_become(c.kind, c.value, value)) value = c.value;
      c.delta = value - c.value;
      if (!(c.delta & 0xff)) return candidates_.clear();
      for (size_t k = 0; k < i; k++)
        if (candidates_[k].delta == c.delta) return candidates_.clear();
      std::memcpy(page_ + c.at, &value, 4);
    }
    translate_page(state_, made, page_, room_.data() + kBlockRoom, *now);
    std::memcpy(page_, page.data(), page.size());
    if (!same_shape(first, *now)) return;
    std::vector<Found> found;
    for (uint32_t at = 0; at < code.size();) {
      if (code[at] == now->code[at]) {
        at++;
        continue;
      }
      if (at + 4 > code.size()) return;
      const uint32_t delta = word_at(now->code.data() + at) - word_at(code.data() + at);
      const auto candidate = std::ranges::find(candidates_, delta, &Candidate::delta);
      if (candidate == candidates_.end() || candidate->at < own.at || candidate->at + 4u > own.at + own.size) return;
      found.push_back({at, static_cast<size_t>(candidate - candidates_.begin())});
      at += 4;
    }
    if (round && found != before) return;
    before = std::move(found);
  }
  // A number stands in each range that has its bytes; the first range's is the one that patches go by.
  std::vector<uint16_t> own_field(candidates_.size());
  unsigned base = 0;
  for (unsigned i = 0; i < made.range_count; i++) {
    const LookedAt& range = made.ranges()[i];
    for (size_t k = 0; k < candidates_.size(); k++) {
      const Candidate& c = candidates_[k];
      if (c.at < range.at || c.at + 4u > range.at + range.size) continue;
      if (i == 0) own_field[k] = static_cast<uint16_t>(fields_.size());
      fields_.push_back({static_cast<uint16_t>(base + c.at - range.at), c.kind});
    }
    base += range.size;
  }
  if (fields_.size() > kMostFields || before.size() > kMostPatches) return fields_.clear();
  for (const Found& f : before) patches_.push_back({f.host, own_field[f.candidate], 0});
}

bool RecordMaker::found_in(StoredBlocks& blocks, const MadeBlock& made) const {
  NotedSource from(made, page_);
  return blocks.taken() && blocks.find(from.copy, from.source);
}

std::span<const uint8_t> RecordMaker::make(const MadeBlock& made) {
  lay_out(made);
  auto first = std::make_unique<Made>();
  translate_page(state_, made, page_, room_.data(), *first);
  const BlockNotes& notes = first->notes;
  const Block& block = first->block;
  // Else it was made from more than these bytes.
  if (notes.look_count != made.range_count || block.indirect_entry != 0) return {};
  for (unsigned i = 0; i < notes.look_count; i++)
    if (notes.looks[i].at != made.ranges()[i].at || notes.looks[i].size != made.ranges()[i].size) return {};
  find_candidates(made);
  look_for_fields(made, *first);
  StoredBlock head{};
  head.mode = made.mode;
  head.code_size = static_cast<uint32_t>(first->code.size());
  std::ranges::copy(block.linked_entry, head.linked_entry);
  head.offset = made.offset;
  head.guest_begin = block.guest_begin;
  head.guest_end = block.guest_end;
  head.source_size = made.source_size;
  head.range_count = made.range_count;
  head.field_count = static_cast<uint16_t>(fields_.size());
  head.patch_count = static_cast<uint16_t>(patches_.size());
  head.side_count = static_cast<uint16_t>(notes.side_count);
  head.site_count = static_cast<uint16_t>(notes.site_count);
  head.insns = static_cast<uint16_t>(notes.instructions);
  head.straddle = block.straddle;
  const unsigned own = made.ranges()[0].size, free = !fields_.empty() && fields_[0].at < own ? fields_[0].at : own;
  for (uint8_t size : kKeySizes)
    if (size <= free && size > head.key_size) head.key_size = size;
  if (!head.key_size) return {};
  head.size = static_cast<uint32_t>(head.wanted_size());
  record_.assign(head.size, 0);
  uint8_t* at = record_.data();
  auto put = [&](const void* from, size_t size) {
    if (size) std::memcpy(at, from, size);
    at += size;
  };
  put(&head, sizeof head);
  put(made.ranges(), made.range_count * sizeof(LookedAt));
  put(fields_.data(), fields_.size() * sizeof(StoredField));
  put(patches_.data(), patches_.size() * sizeof(StoredPatch));
  put(notes.side.data(), notes.side_count * sizeof(SideEntry));
  put(notes.sites.data(), notes.site_count * sizeof(LinkSite));
  put(made.source(), made.source_size);
  at = record_.data() + (reinterpret_cast<const StoredBlock*>(record_.data())->code() - record_.data());
  put(first->code.data(), first->code.size());
  if (!checked_block(record_.data(), record_.size())) return {};
  return record_;
}

}  // namespace vireo::softkvm
