// SPDX-License-Identifier: Apache-2.0
// A disk image or part of one, as a device uses it: asynchronous, on one event loop. Layers (formats over protocols) have
// the same shape above and below.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <span>

namespace vireo::storage {

// Called once, on the loop's thread, with 0 or an errno value.
using Done = std::move_only_function<void(int error)>;

struct Limits {
  uint32_t logical_block = 512;    // bytes; what the guest should see
  uint32_t physical_block = 4096;  // a write of this size and alignment is cheapest
  uint32_t discard_unit = 0;       // space comes back in units of this; 0: of physical_block
  bool discard = false;            // discard() can give space back
};

// Everything is for the loop's thread (or any single thread while nobody runs the loop). Offsets and lengths are bytes; they
// need no alignment. A request past size() fails with EIO. `done` never comes inside the call that took the request: it
// comes in submit(), drain() or from the loop. Buffers stay the caller's and must live until then.
class BlockDevice {
 public:
  virtual ~BlockDevice() = default;  // with nothing in flight: see drain()

  virtual uint64_t size() const = 0;  // a multiple of 512
  virtual bool read_only() const = 0;
  virtual Limits limits() const = 0;

  virtual void read(uint64_t offset, std::span<const iovec> to, Done done) = 0;
  virtual void write(uint64_t offset, std::span<const iovec> from, Done done) = 0;
  // Everything whose `done` has come before is on stable storage afterwards.
  virtual void flush(Done done) = 0;
  // The contents are no longer needed. A hint: what cannot be done succeeds.
  virtual void discard(uint64_t offset, uint64_t length, Done done) = 0;
  // `may_unmap`: the space may be given back.
  virtual void write_zeroes(uint64_t offset, uint64_t length, bool may_unmap, Done done) = 0;

  // Requests may wait for company until this is called.
  virtual void submit() = 0;
  // Waits until no request is in flight; their callbacks run in here.
  virtual void drain() = 0;
};

}  // namespace vireo::storage
