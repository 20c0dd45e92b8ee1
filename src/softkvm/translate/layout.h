// SPDX-License-Identifier: Apache-2.0
// Offsets off the vCPU (the GS base while KVM_RUN runs), shared by the assembly stubs and C++; engine.cpp asserts them.
#pragma once

#define VCPU_GPR 0
#define VCPU_RIP 128
#define VCPU_FLAGS 136          /* al = OF, ah = LAHF */
#define VCPU_SYSTEM_FLAGS 140
#define VCPU_ATTENTION 144
#define VCPU_MODE 148
#define VCPU_PAGE_BASE 152
#define VCPU_FS_BASE 160
#define VCPU_GS_BASE 168
#define VCPU_SELECTOR 188       /* of ES; the others follow ... */
#define SEGMENT_SIZE 24         /* ... at this distance */
#define VCPU_SEGMENT_GS_BASE 296
#define VCPU_CPL 532
#define VCPU_KERNEL_GS_BASE 568
#define VCPU_SHADOW_STI 2400
#define VCPU_RUN 2424

#define ENGINE 0x4000           /* struct Engine behind the vCPU */
#define ENGINE_SELF (ENGINE + 0)
#define ENGINE_HOST_RSP (ENGINE + 8)
#define ENGINE_SCRATCH (ENGINE + 16)
#define ENGINE_TARGET (ENGINE + 24)
#define ENGINE_REASON (ENGINE + 32)
#define ENGINE_BORROW (ENGINE + 48)   /* 4 words */
#define ENGINE_STUBS (ENGINE + 80)    /* 32 words */
#define ENGINE_HELPERS (ENGINE + 336) /* 8 words */
#define ENGINE_SPILL (ENGINE + 400)   /* 6 words, of the stubs */
#define ENGINE_SHADOW_RIP (ENGINE + 448)
#define ENGINE_INTERRUPT_WAITING (ENGINE + 456)
#define ENGINE_VIEW_TLB (ENGINE + 464) /* the current view's TLB, counted from the first one */

/* stubs, by index in ENGINE_STUBS */
#define STUB_MISS 0
#define STUB_ACCESS 1
#define STUB_CALLOUT 2
#define STUB_LOOKUP 3
#define STUB_LINK 4
#define STUB_POLL 5
#define STUB_STEP_DONE 6
#define STUB_LINK_SLOT 13
#define STUB_RECENT 7 /* + 2 * view + (write ? 1 : 0) */
#define STUB_RFLAGS 14
/* Instructions that mostly need no C++; else they go on as STUB_CALLOUT, and are called as that is. */
#define STUB_CLI 15
#define STUB_STI 16
#define STUB_SWAPGS 17
#define STUB_MOVS 18 /* + log2 of the element's size */
#define STUB_STOS 22 /* ... */
#define STUB_GROUP 26
#define STUB_LOOKUP_BRANCH 27

#define DESCRIPTOR_BEHIND 2 /* the call of a stub for failed checks: where MOV has its immediate */
#define ACCESS_WRITE 0x400000 /* in a descriptor */

/* struct CalloutRecord */
#define RECORD_OFFSET 0
#define RECORD_OPCODE 15
#define RECORD_LENGTH 14
#define RECORD_OPERAND_SIZE 82

/* the TLB: in each view three arrays of 64 Ki words */
#define TLB_ARRAY 0x80000
#define TLB_VIEW (3 * TLB_ARRAY)
#define ENGINE_TLB (ENGINE + 0x8e000)

/* helpers, by index in ENGINE_HELPERS */
#define HELPER_MISS 0
#define HELPER_ACCESS 1
#define HELPER_CALLOUT 2
#define HELPER_LOOKUP 3
#define HELPER_LINK 4
#define HELPER_GROUP 5

#define REASON_ATTENTION 1
#define REASON_STEP_DONE 2
#define REASON_HOST_FAULT 3
