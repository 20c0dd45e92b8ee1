// SPDX-License-Identifier: Apache-2.0
// A 16550 that only sends: what Linux needs for its console. Trivially copyable, so that its bytes are its state. The transmitter is
// always empty. Spec: the PC16550D data sheet.
#pragma once

#include <cstdint>

namespace vireo::moves {

struct SerialPort {
  uint8_t ier = 0, lcr = 0, mcr = 8, scr = 0, dll = 12, dlm = 0, fcr = 0;
  bool empty_pending = false;  // THR-empty interrupt, cleared by reading IIR

  bool irq() const { return empty_pending && (ier & 2) && (mcr & 8); }

  uint8_t read(unsigned offset) {
    bool latch = lcr & 0x80;
    switch (offset) {
      case 0: return latch ? dll : 0;
      case 1: return latch ? dlm : ier;
      case 2: {
        uint8_t fifo = fcr & 1 ? 0xc0 : 0;
        if (!(empty_pending && (ier & 2))) return fifo | 1;
        empty_pending = false;
        return fifo | 2;
      }
      case 3: return lcr;
      case 4: return mcr;
      case 5: return 0x60;
      case 6: return mcr & 0x10 ? static_cast<uint8_t>((mcr & 3) << 4 | (mcr & 0xc) << 4) : 0xb0;
      default: return scr;
    }
  }

  // True: a byte was sent.
  bool write(unsigned offset, uint8_t value) {
    bool latch = lcr & 0x80;
    switch (offset) {
      case 0:
        if (latch) {
          dll = value;
          return false;
        }
        empty_pending = true;
        return !(mcr & 0x10);
      case 1:
        if (latch) {
          dlm = value;
        } else {
          if ((value & 2) && !(ier & 2)) empty_pending = true;
          ier = value & 0xf;
        }
        return false;
      case 2: fcr = value; return false;
      case 3: lcr = value; return false;
      case 4: mcr = value & 0x1f; return false;
      case 7: scr = value; return false;
      default: return false;
    }
  }
};

}  // namespace vireo::moves
