// SPDX-License-Identifier: Apache-2.0
// The mode bits of a block's key: everything besides the code bytes that changes what is emitted. Computed by update_mode().
#pragma once

#include <cstdint>

namespace vireo::softkvm {

constexpr uint32_t kModeCode16 = 0, kModeCode32 = 1, kModeCode64 = 2, kModeCodeMask = 3;
constexpr uint32_t kModeStack32 = 1u << 2;   // SS.B
constexpr uint32_t kModeFlatData = 1u << 3;  // DS, ES, SS: base 0, limit 4 GiB, writable (always so in 64-bit mode)
constexpr uint32_t kModeFlatCode = 1u << 4;  // CS: base 0, limit 4 GiB
constexpr unsigned kModeViewShift = 5;       // 2 bits: the TLB view
constexpr uint32_t kModeViewMask = 3u << kModeViewShift;
constexpr uint32_t kModeTs = 1u << 7, kModeEm = 1u << 8, kModeMp = 1u << 9;  // CR0
constexpr uint32_t kModeSse = 1u << 10;      // CR4.OSFXSR
constexpr uint32_t kModeAvx = 1u << 11;      // CR4.OSXSAVE and XCR0 has SSE and AVX
constexpr uint32_t kModeAvx512 = 1u << 12;   // ... and opmask, ZMM_Hi256, Hi16_ZMM
constexpr uint32_t kModeStep = 1u << 13;     // one instruction, every access by the access helper (bounce buffer)
constexpr uint32_t kModeProtected = 1u << 14, kModeVm86 = 1u << 15;
// Never a vCPU's own: each access has a check of its own. Where the check of a group fails, the block goes on in one of these.
constexpr uint32_t kModeUngrouped = 1u << 16;
// Never a vCPU's own either: what CS makes of the block's page (code_edges()). Somewhere in it CS's limit ends: a block has one instruction, and the lookup of
// each holds it against the limit.
constexpr uint32_t kModeCodeEnds = 1u << 17;
// ... In its lower part, below CS's base, are offsets beyond the limit: jumps are not linked, so that each is looked at.
constexpr uint32_t kModeCodeBegins = 1u << 18;
constexpr uint32_t kModeCodeEdges = kModeCodeEnds | kModeCodeBegins;

// TLB views: which rights an access has.
enum View : unsigned { kViewUser = 0, kViewSupervisor = 1, kViewSupervisorAc = 2, kViews = 3 };  // the last: SMAP on and EFLAGS.AC set
constexpr unsigned view_of(uint32_t mode) { return (mode & kModeViewMask) >> kModeViewShift; }

}  // namespace vireo::softkvm
