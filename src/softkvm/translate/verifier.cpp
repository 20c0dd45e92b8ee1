// SPDX-License-Identifier: Apache-2.0
#include "softkvm/translate/verifier.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "softkvm/cpu/decoder.h"
#include "softkvm/translate/emitter.h"
#include "softkvm/translate/mode.h"
#include "softkvm/translate/verifier_state.h"

namespace vireo::softkvm {
namespace {

constexpr uint8_t kNothing = 0, kFirst = 1, kInside = 2, kData = 3;  // what a byte of the block is
constexpr uint8_t kPadding = 0xcc;

struct Node {
  Insn insn;
  bool falls = false, jumps = false;
  uint32_t target = 0;  // offset in the block
  uint8_t visited = 0;
  bool reached = false;
  MachineState state;
};

class Verification {
 public:
  explicit Verification(const EmittedBlock& block) : block_(block), rules_(block), map_(block.size), nodes_(block.size, nullptr) {}

  std::expected<unsigned, Violation> run() {
    const uint32_t begin = block_.offset;
    if (block_.indirect_entry != begin) return broken(Rule::kEntry, begin);
    for (uint32_t linked : block_.linked_entry)
      if (linked <= begin || linked - begin >= block_.size) return broken(Rule::kEntry, begin);
    if (auto v = discover(); !v) return std::unexpected(v.error());
    for (uint32_t linked : block_.linked_entry)
      if (map_[linked - begin] != kFirst) return broken(Rule::kEntry, linked);
    if (auto v = order(0); !v) return std::unexpected(v.error());
    for (uint32_t linked : block_.linked_entry)
      if (auto v = order(linked - begin); !v) return std::unexpected(v.error());
    if (auto v = flow(); !v) return std::unexpected(v.error());
    for (const SideEntry& e : block_.side)
      if (e.host < begin || e.host - begin >= block_.size || map_[e.host - begin] != kFirst) return broken(Rule::kSideTable, e.host);
    if (auto v = sites(); !v) return std::unexpected(v.error());
    if (auto v = everything_reached(); !v) return std::unexpected(v.error());
    return static_cast<unsigned>(insns_.size());
  }

 private:
  using Done = std::expected<void, Violation>;
  std::unexpected<Violation> broken(Rule rule, uint32_t at) const { return std::unexpected(Violation{rule, at}); }

  // Decodes what control flow reaches.
  Done discover() {
    insns_.reserve(block_.size / 3 + 1);  // pointers to them stay
    std::vector<uint32_t> open{0};
    for (uint32_t linked : block_.linked_entry) open.push_back(linked - block_.offset);
    while (!open.empty()) {
      uint32_t at = open.back();
      open.pop_back();
      while (at < block_.size && map_[at] == kNothing) {
        Insn insn;
        if (decode(block_.code + at, std::min<size_t>(block_.size - at, kMaxInsnLength), CodeMode::k64, insn) != DecodeStatus::kOk)
          return broken(Rule::kUndecodable, block_.offset + at);
        for (unsigned i = 0; i < insn.length; i++) {
          if (map_[at + i] != kNothing) return broken(Rule::kBoundary, block_.offset + at);
          map_[at + i] = i ? kInside : kFirst;
        }
        Node& node = made(at, insn);
        if (node.jumps) {
          const int64_t target = static_cast<int64_t>(at) + insn.length + insn.immediate;
          if (target < 0 || target >= static_cast<int64_t>(block_.size)) return broken(Rule::kTarget, block_.offset + at);
          node.target = static_cast<uint32_t>(target);
          open.push_back(node.target);
        }
        if (!node.falls) goto next;
        at += insn.length;
      }
      if (at >= block_.size) return broken(Rule::kRunsOff, block_.offset + at);
      if (map_[at] != kFirst) return broken(Rule::kBoundary, block_.offset + at);
    next:;
    }
    return {};
  }
  Node& made(uint32_t at, const Insn& insn) {
    insns_.push_back(std::make_unique<Node>());
    Node& n = *insns_.back();
    nodes_[at] = &n;
    n.insn = insn;
    n.jumps = insn.operand_count && insn.operands[0].kind == OperandKind::kRelative;
    n.falls = insn.mnemonic != Mnemonic::kJmp && insn.mnemonic != Mnemonic::kUd2 && insn.mnemonic != Mnemonic::kRet && !is_link_stub(insn);
    return n;
  }

  // Depth first; puts the offsets into topological order, last first.
  Done order(uint32_t from) {
    struct Frame {
      uint32_t at;
      unsigned next;
    };
    if (nodes_[from]->visited == 2) return {};
    std::vector<Frame> stack{{from, 0}};
    nodes_[from]->visited = 1;
    while (!stack.empty()) {
      Frame& f = stack.back();
      Node& n = *nodes_[f.at];
      uint32_t to;
      if (f.next == 0 && n.falls) to = f.at + n.insn.length;
      else if (f.next <= 1 && n.jumps) to = n.target, f.next = 1;
      else {
        n.visited = 2;
        order_.push_back(f.at);
        stack.pop_back();
        continue;
      }
      f.next++;
      Node& t = *nodes_[to];
      if (t.visited == 1) return broken(Rule::kLoop, block_.offset + f.at);
      if (t.visited == 2) continue;
      t.visited = 1;
      stack.push_back({to, 0});
    }
    return {};
  }

  void arrive(uint32_t at, const MachineState& state) {
    Node& n = *nodes_[at];
    if (n.reached) join(n.state, state, block_.offset + at);
    else n.state = state, n.reached = true;
  }

  Done flow() {
    arrive(0, entry_state());
    // Other blocks come in at the linked entry with whatever they left in the scratch registers.
    MachineState linked = entry_state();
    linked.reg[kScratch0] = linked.reg[kScratch1] = {};
    linked.by_address = false;
    for (uint32_t entry : block_.linked_entry) arrive(entry - block_.offset, linked);
    for (size_t i = order_.size(); i-- > 0;) {
      const uint32_t at = order_[i];
      Node& n = *nodes_[at];
      auto result = rules_.step(n.insn, block_.offset + at, n.state);
      if (!result) return broken(result.error(), block_.offset + at);
      if (result->record)
        if (auto v = record(*result->record, at); !v) return v;
      if (n.falls) arrive(at + n.insn.length, result->next);
      if (n.jumps) arrive(n.target, n.insn.mnemonic == Mnemonic::kJmp ? result->next : result->taken);
    }
    return {};
  }

  Done record(uint32_t where, uint32_t by) {
    const uint32_t at = where - block_.offset;
    auto bad = [&] { return broken(Rule::kRecord, block_.offset + by); };
    if (where < block_.offset || where % alignof(CalloutRecord)) return bad();
    if (at > block_.size || block_.size - at < sizeof(CalloutRecord)) return bad();
    for (size_t i = 0; i < sizeof(CalloutRecord); i++) {
      if (map_[at + i] != kNothing) return bad();
      map_[at + i] = kData;
    }
    uint32_t head[2];  // page offset, what
    memcpy(head, block_.code + at, sizeof head);
    if (head[0] >= 4096 || head[1] > static_cast<uint32_t>(Callout::kGeneralProtection)) return bad();
    CalloutRecord copy;
    memcpy(&copy, block_.code + at, sizeof copy);
    const Form form = copy.insn.form;
    if (copy.insn.length == 0 || copy.insn.length > kMaxInsnLength) return bad();
    switch (static_cast<Callout>(head[1])) {
      case Callout::kSystem: return form == Form::kSystem ? Done{} : bad();
      case Callout::kString: return form == Form::kString ? Done{} : bad();
      case Callout::kSpecial: return form == Form::kSpecial || form == Form::kStack || form == Form::kBranch ? Done{} : bad();
      default: return {};
    }
  }

  Done sites() {
    for (const LinkSite& s : block_.sites) {
      auto bad = [&] { return broken(Rule::kLinkSite, s.at); };
      if (s.at % 4 || s.at < block_.offset || s.at - block_.offset + 4 > block_.size) return bad();
      if (s.unlinked < block_.offset || s.unlinked - block_.offset >= block_.size) return bad();
      const uint32_t at = s.at - block_.offset;
      const Node* jump = nullptr;
      for (uint32_t back : {1u, 2u})
        if (at >= back && nodes_[at - back] && nodes_[at - back]->insn.length == back + 4) jump = nodes_[at - back];
      if (!jump || !jump->jumps || jump->target != s.unlinked - block_.offset) return bad();
      const Node* stub = nodes_[jump->target];
      if (!stub || !is_link_stub(stub->insn) || s.target >= 4096) return bad();
    }
    return {};
  }

  Done everything_reached() {
    for (size_t at = 0; at < block_.size; at++) {
      if (map_[at] != kNothing) continue;
      // Padding stands in front of a record only.
      size_t end = at;
      while (end < block_.size && map_[end] == kNothing && block_.code[end] == kPadding && end - at < alignof(CalloutRecord)) end++;
      if (end == at || end >= block_.size || map_[end] != kData) return broken(Rule::kUnreached, block_.offset + static_cast<uint32_t>(at));
      at = end;
    }
    return {};
  }

  const EmittedBlock& block_;
  BlockRules rules_;
  std::vector<uint8_t> map_;
  std::vector<Node*> nodes_;
  std::vector<std::unique_ptr<Node>> insns_;
  std::vector<uint32_t> order_;
};

}  // namespace

const char* rule_text(Rule rule) {
  switch (rule) {
    case Rule::kUndecodable: return "no instruction";
    case Rule::kForbidden: return "an instruction that may not stand in a block";
    case Rule::kPrefix: return "a prefix that the emitter does not write";
    case Rule::kSlot: return "a GS-relative operand that is no slot for this use";
    case Rule::kUnchecked: return "a memory operand that is no translated address";
    case Rule::kTooWide: return "an access wider than its check";
    case Rule::kRights: return "an access of another kind than its check";
    case Rule::kTlbIndex: return "a table entry that is not the address's";
    case Rule::kRipRelative: return "a RIP-relative operand";
    case Rule::kHostStack: return "the host's stack pointer as an operand";
    case Rule::kHostAddress: return "a host address used as data or left in a guest register";
    case Rule::kUndefined: return "an undefined scratch register is read";
    case Rule::kTarget: return "a branch out of the block";
    case Rule::kBoundary: return "control flow into the middle of an instruction";
    case Rule::kLoop: return "a loop without a poll";
    case Rule::kStub: return "a stub entered with the wrong registers";
    case Rule::kRecord: return "a call-out record that is none";
    case Rule::kRunsOff: return "control flow runs off the block's end";
    case Rule::kUnreached: return "bytes that are never reached";
    case Rule::kSideTable: return "no exact side entry for an instruction that may fault";
    case Rule::kLinkSite: return "a link site that is no aligned jump to its stub";
    case Rule::kEntry: return "an entry point outside of the block";
    case Rule::kLink: return "a jump linked to the wrong place";
  }
  return "";
}

std::expected<unsigned, Violation> verify_block(const EmittedBlock& block) { return Verification(block).run(); }

std::optional<Violation> verify_link(const uint8_t* cache, uint32_t at, const Block* from, const Block* target, uint32_t destination,
                                     const LinkSite& site) {
  if (at % 4 || at < 2 || !from || at < from->indirect_entry || at + 4 > from->code_end) return Violation{Rule::kLinkSite, at};
  const bool jump = cache[at - 1] == 0xe9 || (cache[at - 2] == 0x0f && (cache[at - 1] & 0xf0) == 0x80);
  if (!jump) return Violation{Rule::kLinkSite, at};
  if (!target) {
    const bool own = destination == site.unlinked && destination >= from->indirect_entry && destination < from->code_end;
    return own ? std::nullopt : std::optional(Violation{Rule::kLink, at});
  }
  const uint32_t mode = (from->mode & ~kModeUngrouped) | (site.ungrouped ? kModeUngrouped : 0);
  const bool kin = target->valid && target->mode == mode && target->gpa >> 12 == from->gpa >> 12 && !target->straddle &&
                   !from->straddle && !(from->mode & kModeStep);
  if (!kin || destination != target->linked_entry[static_cast<unsigned>(site.flags)]) return Violation{Rule::kLink, at};
  return std::nullopt;
}

std::string describe(const EmittedBlock& block, const Violation& violation) {
  char text[128];
  // The guest instruction, where the side table tells it: else the block's first.
  uint64_t guest = block.gpa;
  uint32_t best = 0;
  for (const SideEntry& e : block.side)
    if (e.host <= violation.at && e.host >= best) best = e.host, guest = (block.gpa & ~0xfffull) | e.guest;
  const uint32_t at = violation.at - block.offset;
  snprintf(text, sizeof text, "verifier: block of guest 0x%llx (mode 0x%x), at guest 0x%llx, host +0x%x of 0x%zx:",
           static_cast<unsigned long long>(block.gpa), block.mode, static_cast<unsigned long long>(guest), at, block.size);
  std::string out = text;
  unsigned length = 8;
  Insn insn;
  if (at < block.size && decode(block.code + at, std::min<size_t>(block.size - at, kMaxInsnLength), CodeMode::k64, insn) == DecodeStatus::kOk)
    length = insn.length;
  for (uint32_t i = at; i < at + length && i < block.size; i++) {
    snprintf(text, sizeof text, " %02x", block.code[i]);
    out += text;
  }
  return out + ": " + rule_text(violation.rule);
}

}  // namespace vireo::softkvm
