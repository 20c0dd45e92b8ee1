// SPDX-License-Identifier: Apache-2.0
// Expected values: PC16550D data sheet, tables 1 to 4.
#include "devices/uart.h"

#include <gtest/gtest.h>

#include <string>

namespace vireo {
namespace {

struct Line final : IrqLine {
  void set(bool l) override {
    if (l && !level) rises++;
    level = l;
  }
  bool level = false;
  int rises = 0;
};

struct Host final : CharBackend {
  void connect(CharFrontend*) override {}
  bool write(std::byte b) override {
    if (full || sent.size() >= limit) return false;
    sent += static_cast<char>(b);
    return true;
  }
  void room_made() override { wakes++; }
  std::string sent;
  size_t limit = SIZE_MAX;
  bool full = false;
  int wakes = 0;
};

class UartTest : public testing::Test {
 protected:
  uint8_t in(unsigned offset) {
    std::byte b{0xff};
    uart.read({offset}, {&b, 1});
    return std::to_integer<uint8_t>(b);
  }
  void out(unsigned offset, uint8_t value) {
    std::byte b{value};
    uart.write({offset}, {&b, 1});
  }
  size_t type(const std::string& text) { return uart.receive(std::as_bytes(std::span(text))); }
  void listen() {
    out(2, 0x07);  // FIFO on and cleared
    out(4, 0x0b);  // DTR, RTS, OUT2
  }
  Line line;
  Host host;
  Uart uart{{line, &host}};
};

TEST_F(UartTest, TransmitterIsEmptyAfterReset) { EXPECT_EQ(in(5), 0x60); }

TEST_F(UartTest, BytesGoToTheHost) {
  for (char c : std::string("hello")) out(0, static_cast<uint8_t>(c));
  EXPECT_EQ(host.sent, "hello");
  EXPECT_EQ(in(5), 0x60);
}

TEST_F(UartTest, FullHostHoldsTheByteUntilReady) {
  host.full = true;
  out(0, 'x');
  EXPECT_EQ(in(5) & 0x60, 0);
  host.full = false;
  uart.transmit_ready();
  EXPECT_EQ(host.sent, "x");
  EXPECT_EQ(in(5) & 0x60, 0x60);
}

// Drivers write sixteen bytes when the transmitter is empty; the host's end may be full in the middle of them.
TEST_F(UartTest, WhatIsWrittenIntoTheFifoIsSentWhereTheHostTakesItInParts) {
  listen();
  out(1, 0x02);
  host.limit = 3;
  for (char c : std::string("0123456789abcdef")) out(0, static_cast<uint8_t>(c));
  EXPECT_EQ(host.sent, "012");
  EXPECT_EQ(in(5) & 0x60, 0);
  EXPECT_FALSE(line.level);
  host.limit = 8;
  uart.transmit_ready();
  EXPECT_EQ(host.sent, "01234567");
  EXPECT_EQ(in(5) & 0x60, 0);
  host.limit = SIZE_MAX;
  uart.transmit_ready();
  EXPECT_EQ(host.sent, "0123456789abcdef");
  EXPECT_EQ(in(5) & 0x60, 0x60);
  EXPECT_TRUE(line.level);
  host.full = true;
  for (int i = 0; i < 20; i++) out(0, 'x');  // four more than there is room for
  host.full = false;
  uart.transmit_ready();
  EXPECT_EQ(host.sent.size(), 32u);
}

TEST_F(UartTest, DivisorLatchHidesDataAndInterruptEnable) {
  out(3, 0x83);
  out(0, 0x01);
  out(1, 0x02);
  EXPECT_EQ(in(0), 0x01);
  EXPECT_EQ(in(1), 0x02);
  out(3, 0x03);
  EXPECT_EQ(in(1), 0x00);
  EXPECT_TRUE(host.sent.empty());
}

TEST_F(UartTest, NothingIsTakenBeforeTheDriverListens) {
  EXPECT_EQ(type("abc"), 0u);
  listen();
  EXPECT_GT(host.wakes, 0);
  EXPECT_EQ(type("abc"), 3u);
  EXPECT_EQ(in(5) & 1, 1);
  EXPECT_EQ(in(0), 'a');
}

// SeaBIOS reads its serial console so: no interrupt, no RTS.
TEST_F(UartTest, AGuestThatPollsForInputGetsIt) {
  for (int i = 0; i < 7; i++) in(5);
  EXPECT_EQ(type("a"), 0u);
  in(5);
  EXPECT_EQ(host.wakes, 1);
  EXPECT_EQ(type("a"), 1u);
  EXPECT_EQ(in(5) & 1, 1);
  EXPECT_EQ(in(0), 'a');
  EXPECT_EQ(type("b"), 1u);
}

TEST_F(UartTest, AGuestThatWaitsToSendIsNotTakenForOneThatPolls) {
  for (int i = 0; i < 20; i++) in(5), in(5), out(0, 'x');
  EXPECT_EQ(type("a"), 0u);
}

TEST_F(UartTest, FifoTakesSixteenAndNoMore) {
  listen();
  EXPECT_EQ(type(std::string(40, 'x')), 16u);
  EXPECT_EQ(uart.receive_room(), 0u);
  for (int i = 0; i < 16; i++) EXPECT_EQ(in(0), 'x');
  EXPECT_EQ(in(5) & 3, 0);  // neither data nor overrun
}

TEST_F(UartTest, ReceiveInterruptFollowsTriggerAndTimeout) {
  listen();
  out(2, 0x81);  // trigger at eight
  out(1, 0x01);
  type("abc");
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(2), 0xcc);  // character timeout
  type("defgh");
  EXPECT_EQ(in(2), 0xc4);  // data available
  for (int i = 0; i < 8; i++) in(0);
  EXPECT_FALSE(line.level);
  EXPECT_EQ(in(2), 0xc1);
}

// 8259s and IOAPIC take edges: what is left in the FIFO needs one of its own (its timeout), else nobody would come for it.
TEST_F(UartTest, WhatIsLeftBelowTheTriggerInterruptsAgain) {
  listen();
  out(2, 0x81);  // trigger at eight
  out(1, 0x01);
  type("0123456789");
  EXPECT_EQ(line.rises, 1);
  for (int i = 0; i < 2; i++) in(0);
  EXPECT_EQ(line.rises, 1);
  for (int i = 0; i < 6; i++) in(0);
  EXPECT_EQ(line.rises, 2);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(2), 0xcc);
  for (int i = 0; i < 2; i++) in(0);
  EXPECT_EQ(line.rises, 2);
  EXPECT_FALSE(line.level);
}

TEST_F(UartTest, EachByteSentIsAnInterruptAlsoWhereTheLastWasNotTaken) {
  listen();
  out(1, 0x02);
  EXPECT_EQ(line.rises, 1);
  out(0, 'x');
  EXPECT_EQ(line.rises, 2);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(2), 0xc2);
  EXPECT_FALSE(line.level);
}

TEST_F(UartTest, AFifoThatIsFilledIsOneInterrupt) {
  listen();
  out(1, 0x02);
  in(2);
  for (int i = 0; i < 16; i++) out(0, 'x');
  EXPECT_EQ(line.rises, 2);
  out(0, 'y');
  EXPECT_EQ(line.rises, 3);
  in(5);
  out(0, 'z');
  EXPECT_EQ(line.rises, 4);
  out(2, 0x00);  // no FIFO
  for (int i = 0; i < 3; i++) out(0, 'x');
  EXPECT_EQ(line.rises, 7);
}

TEST_F(UartTest, TransmitInterruptIsClearedByReadingIir) {
  listen();
  out(1, 0x02);
  EXPECT_TRUE(line.level);
  EXPECT_EQ(in(2), 0xc2);
  EXPECT_FALSE(line.level);
  out(0, 'y');
  EXPECT_TRUE(line.level);
}

TEST_F(UartTest, Out2GatesTheLine) {
  out(1, 0x02);
  EXPECT_FALSE(line.level);
  out(4, 0x08);
  EXPECT_TRUE(line.level);
}

TEST_F(UartTest, LoopbackReturnsDataAndModemLines) {
  out(4, 0x1a);  // LOOP, OUT2, RTS
  EXPECT_EQ(in(6) & 0xf0, 0x90);  // DCD from OUT2, CTS from RTS
  out(0, 'q');
  EXPECT_EQ(in(0), 'q');
  EXPECT_TRUE(host.sent.empty());
}

TEST_F(UartTest, ModemStatusDeltasClearOnRead) {
  EXPECT_EQ(in(6), 0xb0);
  out(4, 0x10);
  EXPECT_EQ(in(6) & 0x0f, 0x0b);  // CTS, DSR and DCD fell
  EXPECT_EQ(in(6) & 0x0f, 0x00);
}

TEST_F(UartTest, ScratchKeepsItsByte) {
  out(7, 0x5a);
  EXPECT_EQ(in(7), 0x5a);
}

}  // namespace
}  // namespace vireo
