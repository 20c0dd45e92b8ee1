// SPDX-License-Identifier: Apache-2.0
// One vCPU's derived state: TLB, jump cache, the open parts of a device access, and the doors to translated code. Everything in it can
// be dropped at a safe point but the open fragments. Touched by the vCPU's own thread only; others post requests.
// The arrays' sizes follow docs/engine.md: an index of 16 address bits costs one MOVZX and makes conflicts rare.
#pragma once

#include <atomic>
#include <cstdint>

#include "softkvm/counters.h"
#include "softkvm/mmu/known_areas.h"
#include "softkvm/mmu/large_areas.h"
#include "softkvm/native/user_profile.h"
#include "softkvm/translate/block.h"
#include "softkvm/translate/layout.h"
#include "softkvm/translate/mode.h"
#include "softkvm/translate/sure_code.h"
#include "softkvm/vm.h"

namespace vireo::softkvm {

// Why translated code was left (Engine::reason).
enum Reason : uint32_t {
  kReasonNone = 0,
  kReasonAttention = REASON_ATTENTION,    // target holds the linear address to go on at
  kReasonStepDone = REASON_STEP_DONE,     // a step-mode instruction has ended; target as above
  kReasonHostFault = REASON_HOST_FAULT,   // the signal handler filled fault and rip
  kReasonTranslate,  // target has no block yet
  kReasonFault,      // vcpu.fault is pending, rip is its instruction's
  kReasonStep,       // the instruction at rip has to run in step mode
  kReasonJump,       // rip holds the place to go on at
  kReasonLink,       // as kReasonTranslate; link_site is the jump that may be patched
  kReasonExit,       // kvm_run is filled, or a device access is open
  kReasonHalt,
  kReasonExclusive,  // the instruction at rip has to run in step mode while the other vCPUs are held
};

// What a memory access site tells its helper (r10d).
constexpr unsigned kAccessSizeShift = 12, kAccessWrite = 1u << 22, kAccessRead = 1u << 23, kAccessSegmentShift = 24;  // 3 bits
constexpr unsigned kAccessMasked = 1u << 27;  // elements may be masked off: those do not fault
constexpr unsigned kAccessX87 = 1u << 28;      // an x87 exception that waits (#MF) comes before what the address gives
constexpr unsigned kAccessAligned = 1u << 29;  // #GP(0) where the address is no multiple of the size, before any page is looked at
constexpr unsigned kAccessNoAc = 1u << 30;     // never #AC
constexpr unsigned kAccessLocked = 1u << 31;   // read-modify-write in one, for the other vCPUs too
constexpr unsigned kAccessAlignedUnlessMm = kAccessAligned | kAccessNoAc;  // ... and MXCSR.MM is clear; else as other accesses
constexpr uint32_t kMxcsrMm = 1u << 17;        // misaligned exception mask, of AMD's CPUs: APM vol 1, 4.3.2
constexpr unsigned kAccessMaskedAlignmentShift = 29;  // where kAccessMasked is set, instead of the last three: masked_alignment()
constexpr uint32_t access_descriptor(unsigned page_offset, unsigned size, bool read, bool write, unsigned segment) {
  return page_offset | size << kAccessSizeShift | (write ? kAccessWrite : 0) | (read ? kAccessRead : 0) |
         segment << kAccessSegmentShift;
}

// What a lookup is told of the near branch that leads to it (r10d; 0: none does), since that is not done where it may not go: where it is, and by how many
// bytes it has moved rSP, a number with a sign.
constexpr unsigned kIsBranch = 1u << 12, kBranchMovedShift = 13;
constexpr uint32_t branch_descriptor(unsigned page_offset, int moved) { return page_offset | kIsBranch | static_cast<uint32_t>(moved) << kBranchMovedShift; }

constexpr uint64_t kAnyRip = ~0ull;
constexpr uint64_t kInvalidTag = 0x5555ull << 48;  // not canonical: no linear address that is mapped has it. But guests use such addresses
constexpr unsigned kTlbBits = 16, kTlbEntries = 1u << kTlbBits;
// Of an entry of the TLB that has no page: what has another index, so that no access finds it.
constexpr uint64_t no_page(unsigned index) { return kInvalidTag | uint64_t{(index ^ 1) & (kTlbEntries - 1)} << 12; }
constexpr unsigned kJumpBits = 16, kJumpEntries = 1u << kJumpBits;
constexpr unsigned kFetchEntries = 4096, kFetchGone = 64;
constexpr unsigned kCodePageWrites = 64;

struct TlbView {
  uint64_t read[kTlbEntries];    // linear page, or no_page()
  uint64_t write[kTlbEntries];
  uint64_t addend[kTlbEntries];  // host page
};

// The page that was last accessed through a register: what the inline check compares with first. One for reads and one for writes, so that
// neither pushes the other out; each is a copy of a TLB entry and goes whenever one of those goes.
constexpr uint64_t kNowhere = kInvalidTag;  // no host address: it has no index, and so finds what lies at kInvalidTag, which is #GP of the host's (host_faults.cpp)
struct RecentPage {
  uint64_t tag = kInvalidTag;  // linear page
  uint64_t addend = kNowhere;  // host page
};
constexpr unsigned kRecentRip = 16, kRecentNoBase = 17, kRecentFs = 18, kRecentGs = 19, kRecentKeys = 20;  // below 16: the base register

constexpr int8_t kGroupSlots = 8;

// What the check of a group of accesses tells its helper, in the upper half of r10: how many bytes from r11 on it is for, how far behind r11 the first
// access lies (r10d describes it), the recent page to enter (or kNoRecent), and whether it is for writing.
constexpr unsigned kGroupDeltaShift = 12, kGroupRecentShift = 24, kGroupWrite = 1u << 29, kNoRecent = 31;

// One page's worth of an access: its slot, or none for a device.
struct Piece {
  uint64_t gpa;
  const struct Slot* slot;
  bool writable, global, of_area;
};

// A page that was written but has no write tag, since there is translated code in it: where it is, as long as the TLB's entries hold.
struct CodePageWrite {
  uint64_t tag = kInvalidTag;  // linear page
  Piece piece{};               // ... of its first byte
};

// Where a linear address is looked for: mixed, since big programs spread their code over many times 64 KiB.
constexpr unsigned jump_index(uint64_t linear) { return static_cast<unsigned>((linear ^ linear >> kJumpBits) & (kJumpEntries - 1)); }

// Which pages jump entries may have been filled by way of, by a hash. Pages of one bit have their own entries among the same 4096, so who looks
// through those can tell that a bit is for nothing any more.
class JumpPages {
 public:
  void note(uint64_t linear) { set(own_, linear); }
  // An instruction of the page before reaches into this one: its entry is somewhere else.
  void note_reached(uint64_t linear) { set(reached_, linear); }
  bool may_have(uint64_t linear) const { return (own_[bit_of(linear) / 64] | reached_[bit_of(linear) / 64]) >> bit_of(linear) % 64 & 1; }
  // No entry of the page's bit is left but for those that reach into such a page.
  void clear_own(uint64_t linear) { own_[bit_of(linear) / 64] &= ~(1ull << bit_of(linear) % 64); }
  static constexpr bool alike(uint64_t one, uint64_t other) { return bit_of(one) == bit_of(other); }
  void clear() { *this = {}; }

 private:
  static_assert(kJumpBits == 16);
  static constexpr unsigned bit_of(uint64_t linear) { return (jump_index(linear) & ~0xfffu) | static_cast<unsigned>((linear >> 16 ^ linear >> 32) & 0xfff); }
  static void set(uint64_t (&words)[1024], uint64_t linear) { words[bit_of(linear) / 64] |= 1ull << bit_of(linear) % 64; }
  uint64_t own_[1024] = {}, reached_[1024] = {};
};

struct JumpEntry {
  uint64_t tag;  // linear address, doubted_tag() of it, or no_jump() of the entry's index
  const void* code;
};

// What a jump entry's code was made from: its page, or null where it is of two pages; that one's number; the block's number in the code cache.
struct JumpSource {
  PageSource* page;
  uint32_t page_number, block;
};

// Of an entry that leads nowhere. Guests jump to addresses that are not canonical, too: it is one that has another index, and doubted another still.
constexpr uint64_t no_jump(unsigned index) { return kInvalidTag | (index ^ 2); }
// Of an entry whose page has to be compared with what its code was made from before it is used again (doubt_code()). Nothing finds it by accident:
// no address with this entry's index is so.
constexpr uint64_t doubted_tag(uint64_t linear) { return linear ^ 1; }

struct FetchEntry {
  uint64_t tag = kInvalidTag;  // linear page | view
  uint64_t gpa = 0;
  bool global = false;
  bool of_area = false;  // of one of Engine::fetch_areas
  uint64_t space = 0;    // Engine::fetch_space[global] when it was filled
};

// A piece of a device access that user space has to do, at most 8 bytes.
struct Fragment {
  uint64_t gpa;
  uint8_t size;
  bool done;
  uint8_t data[8];
};

// An access of the step-mode instruction that runs on a bounce buffer: `first` bytes lie in pieces[0], the others in pieces[1].
struct Bounce {
  Piece pieces[2];
  uint32_t first, size;
  bool write;
  bool masked;  // which bytes are stored shows when the instruction is run twice (masked_store_again())
  bool x87;     // an exception may have kept it from storing
  uint8_t* at;
};

struct FillLog {
  static constexpr unsigned kCapacity = 8192;
  uint32_t count = 0;
  uint16_t index[kCapacity];

  void add(unsigned i) {
    if (count < kCapacity) index[count] = static_cast<uint16_t>(i);
    if (count <= kCapacity) count++;
  }
  // What was filled is not known any more.
  void forget() { count = kCapacity + 1; }
  // Calls drop(index) for what was filled, or for all `entries` where that is not known any more, and starts anew.
  template <class F>
  void drain(unsigned entries, F drop) {
    if (count > kCapacity)
      for (unsigned i = 0; i < entries; i++) drop(i);
    else
      for (unsigned i = 0; i < count; i++) drop(index[i]);
    count = 0;
  }
  // Where it is getting full: forgets what keep(index) does not want.
  template <class F>
  void keep_if(F keep) {
    if (count > kCapacity / 2 && count <= kCapacity) compact(keep);
  }
  template <class F>
  void compact(F keep) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < count; i++)
      if (keep(index[i])) index[kept++] = index[i];
    count = kept;
  }
};

constexpr uint32_t kMuchUsed = 256;

constexpr unsigned kMaxFragments = 1024, kMaxBounces = 4;

struct Engine {
  VcpuState* self = nullptr;
  uint64_t host_rsp = 0;
  uint64_t scratch = 0;
  uint64_t target = 0;
  uint32_t reason = 0, pad = 0;
  uint64_t pad2 = 0;
  uint64_t borrow[4] = {};
  const void* stubs[32] = {};
  const void* helpers[8] = {};
  uint64_t spill[6] = {};
  uint64_t shadow_rip = kAnyRip;       // the interrupt shadow holds while rip is this
  bool interrupt_waiting = false;      // an interrupt waits for IF
  uint64_t view_tlb = 0;               // update_mode(): bytes from the first view's TLB to the current one's
  RecentPage recent[kViews][2][kRecentKeys];
  uint64_t group[kGroupSlots] = {};    // host addresses of the groups of accesses in the block that runs (access_groups.h)

  // --- running user code natively (native/native.h)
  class Native* native = nullptr;
  std::atomic<int> native_pidfd{-1};    // of the stub that runs for this vCPU now, or -1
  std::atomic<uint32_t> native_wakers{0};  // threads that may be about to signal it
  std::atomic<bool> native_woken{false};   // it has been: a second signal would tell nothing more, and many would fill its stack
  uint64_t native_flushes = 0, native_write_flushes = 0;  // of the TLB, and of its write tags alone
  // Pages of page faults since user code last ran natively: as a TLB's entries theirs go. More than there is room for count as a flush.
  static constexpr unsigned kNativeFaulted = 4;
  uint64_t native_faulted[kNativeFaulted];
  unsigned native_faulted_count = 0;
  bool native_fault = false;  // a page fault of such code went to the guest's kernel: CR2's page will be wanted
  bool native_lost = false;   // the stub has died with the guest's registers: nothing runs until user space has set the vCPU's state

  // --- requests from other threads
  std::atomic<uint32_t> requests{0};   // kRequest*
  std::atomic<uint32_t> running{0};    // 1 while translated code or its helpers may use the TLB
  std::atomic<bool> exit_request{false};
  std::atomic<uint32_t> wake{0};       // futex of a halted vCPU
  std::atomic<bool> sleeping{false};

  const void* link_site = nullptr;
  uint64_t link_generation = 0;        // of the code cache when link_site was noted
  uint32_t link_mode = 0;              // ... and the mode of its target
  bool suspect = false;                // the page that a block is wanted on is newly mapped, or seen to have changed
  std::atomic<bool> alert_request{false};
  bool alert = false;                  // jump caches are empty and stay so: each page is looked at whenever it is entered
  uint32_t target_mode = 0;
  uint32_t pauses = 0;
  class StoredBlocks* stored = nullptr;  // where blocks may be had from and left, or null ...
  bool stored_known = false;           // ... once that has been asked
  bool step_next = false;              // the next instruction runs in step mode
  bool completing = false;             // user space has answered: the instruction at rip has to be completed before anything else
  bool memory_gone = false;            // a slot was not backed by host memory: KVM_RUN returns EFAULT
  bool debug_exit = false;             // KVM_EXIT_DEBUG is due
  bool event_lost = false;             // KVM_EXIT_INTERNAL_ERROR is due: an event could not be delivered

  // --- device accesses of the instruction at hand
  bool stepping = false;     // running in step mode: accesses may be bounced
  bool need_step = false;    // an access outside of step mode met a device
  bool io_open = false, io_answered = false;  // a port access is with user space / has come back
  bool fragment_open = false;                 // fragments[fragment_next] is with user space
  uint64_t open_rip = 0;                      // rip when the access was left open
  bool writes_open = false;                   // queued writes are leaving one by one; the instruction is over
  uint16_t io_port = 0;
  uint8_t io_size = 0;
  bool io_write = false;
  uint32_t io_value = 0;
  uint16_t io_count = 1;                      // of a repeated INS: how many values user space is asked for at once
  uint16_t ahead_left = 0, ahead_next = 0;    // ... and those that it gave and the instruction has not taken yet
  uint8_t ahead[1024];
  unsigned fragment_count = 0, fragment_next = 0;
  Fragment fragments[kMaxFragments];
  unsigned write_count = 0, write_next = 0;
  Fragment writes[kMaxFragments];
  unsigned bounce_count = 0, bounce_used = 0;
  Bounce bounces[kMaxBounces];
  bool masked_again = false;      // the second run of a masked store
  uint8_t masked_bytes[64];       // what the first run has left in its bounce buffer
  bool want_exclusive = false;    // the next run_fast() is to be so ...
  bool exclusive = false;         // ... and now the other vCPUs are held
  bool need_exclusive = false;    // a call-out's access wants that
  bool writes_stand = false;      // the instruction faults, but what it has queued was done before
  struct { uint64_t gpa; uint32_t size; } smc[40];  // code that was overwritten and is not invalidated yet
  unsigned smc_count = 0;
  alignas(64) uint8_t bounce_bytes[8192];

  // --- debug registers; the guest's, or user space's under KVM_GUESTDBG_USE_HW_BP (breakpoints.h)
  uint8_t watching = 0;      // bit n: DRn watches data or ports in the instruction at hand
  uint8_t watch_hits = 0;    // bit n: and was hit

  // --- what update_mode() last saw, per view
  uint32_t view_mode[kViews] = {};

  LargeAreas large_areas;  // of the walks since the whole TLB was emptied
  FetchEntry fetch[kFetchEntries];
  uint64_t fetch_space[2] = {1, 1};  // [global]: counts the flushes of such pages; an entry of before holds no longer
  bool holds(const FetchEntry& entry, uint64_t tag) const { return entry.tag == tag && entry.space == fetch_space[entry.global]; }
  // What was filled since the last flush: entries of global pages apart, since a change of address space leaves them.
  FillLog tlb_log[kViews], tlb_log_global[kViews];
  FillLog write_log[kViews];  // what has had a write tag since these were flushed
  FillLog jump_log[kViews], jump_log_global[kViews];
  bool doubt_due = false;     // before anything else runs
  FillLog jump_sure[kViews];  // VMs with unseen writes: of both, those that may be used without a look at their page
  // How often a view's entries were filled, and its jump entries: at kMuchUsed the whole table gets its pages.
  uint32_t tlb_fills[kViews] = {}, jump_fills[kViews] = {};
  JumpPages jump_pages[kViews];

  // The second page is the only accessible one: a masked access that reaches into a page the guest may not touch is laid over its edge, and
  // the host's own fault suppression tells whether an element is really wanted there.
  alignas(4096) uint8_t guard[4 * 4096];
  PendingException masked_fault[2];  // of the access's first page and its second
  uint64_t masked_linear = 0;        // the guest's address of masked_at
  uint8_t* masked_at = nullptr;
  unsigned masked_first = 0;         // bytes in the first page

  alignas(4096) uint8_t xsave[16384];
  alignas(4096) TlbView tlb[kViews];
  alignas(4096) JumpEntry jump[kViews][kJumpEntries];
  JumpSource jump_source[kViews][kJumpEntries];  // VMs with unseen writes
  SureCode sure;
  CodePageWrite code_writes[kViews][kCodePageWrites];  // by the linear page's number
  bool no_code_writes = false;                         // there are none of these

  // Large pages that have been seen, with each view's rights and for fetches by supervisor and user, and what was filled by way of them: it is in
  // no other log. `fetch_log` has the fetch entries of the other global pages, `fetch_gone` those of them that have made room for others; `fetch_lost`: not all.
  KnownAreas areas[kViews], fetch_areas[2];
  FillLog tlb_log_area[kViews], fetch_log;
  FetchEntry fetch_gone[kFetchGone];
  unsigned fetch_gone_count = 0;
  bool fetch_lost = false;

  UserProfile profile;  // which user code is worth running natively (native/native.h)

  VcpuCounters counters;
};

constexpr uint32_t kRequestFlushTlb = 1, kRequestFlushCode = 2, kRequestFlushWrites = 4, kRequestParavirtual = 8, kRequestHold = 16;

// The vCPU as it lies in memory: GS base points at it while KVM_RUN runs.
struct VcpuFrame {
  alignas(4096) unsigned char vcpu[ENGINE];
  Engine engine;
};

inline Engine& engine_of(const VcpuState& state) {
  auto& vcpu = const_cast<VcpuState&>(state);
  return *reinterpret_cast<Engine*>(reinterpret_cast<uint8_t*>(&vcpu) + ENGINE);
}

// --- the FAST half (dispatch.cpp)
enum class Action : uint8_t {
  kTranslate,    // rip has no block in target_mode yet
  kExit,         // KVM_RUN returns
  kHalt,
  kInterrupted,  // KVM_RUN returns EINTR
  kInvalidate,   // the instruction overwrote translated code (Engine::smc)
  kRequests,     // other threads' requests, INIT, SIPI
  kExclusive,    // the next instruction has to run with the other vCPUs held
  kNative,       // user code is to go on natively
  kStuck,        // the instruction cannot be run: KVM_EXIT_INTERNAL_ERROR
};
// Runs the guest until something needs the slow half. General registers only; the guest's SIMD state is live.
Action run_fast(Vcpu& vcpu);
void flush_jump_cache(VcpuState& vcpu, unsigned view, bool keep_global = false);
void flush_all_jump_caches(VcpuState& vcpu);
// VMs with unseen writes: the guest may have learnt of one. Each page of code is compared before it runs again.
void doubt_code(Vcpu& vcpu);
// The guest has written to a device, which may answer by a foreign write (softkvm.h, expect_foreign_writes).
void expect_answer(Vcpu& vcpu);
void flush_write_tags(VcpuState& vcpu);
// The page of a fetch at `linear`, by the known areas if one has it, else by a walk; into the fetch entry. False: vcpu.fault.
bool fill_fetch(VcpuState& vcpu, uint64_t linear, bool walk_tables);
void set_rip_linear(VcpuState& vcpu, uint64_t linear);
uint64_t rip_linear(const VcpuState& vcpu);
// Outside of 64-bit mode: do the `size` bytes at a linear address lie within CS's limit?
bool within_code(const VcpuState& vcpu, uint64_t linear, unsigned size = 1);
// Which of kModeCodeEdges a block at this address has, in the vCPU's mode.
uint32_t code_edges(const VcpuState& vcpu, uint64_t linear);

}  // namespace vireo::softkvm
