// SPDX-License-Identifier: Apache-2.0
#include "devices/pirq.h"

#include <gtest/gtest.h>

#include <deque>

namespace vireo {
namespace {

struct Line final : IrqLine {
  void set(bool l) override {
    rises += l && !level;
    level = l;
  }
  bool level = false;
  int rises = 0;
};

struct PirqTest : testing::Test {
  std::deque<Line> pins = std::deque<Line>(8), irqs = std::deque<Line>(16);
  PirqRouter router{[this](unsigned n) -> IrqLine& { return pins[n]; }, [this](unsigned n) -> IrqLine& { return irqs[n]; }};
};

TEST_F(PirqTest, AfterResetOnlyTheIoapicSeesIt) {
  IrqLine& in = router.input(3);
  in.set(true);
  EXPECT_TRUE(pins[3].level);
  for (Line& irq : irqs) EXPECT_FALSE(irq.level);
}

TEST_F(PirqTest, ARouteTakesEffectWhileTheLineIsHigh) {
  IrqLine& in = router.input(0);
  in.set(true);
  router.route(0, 10);
  EXPECT_TRUE(irqs[10].level);
  router.route(0, 11);
  EXPECT_FALSE(irqs[10].level);
  EXPECT_TRUE(irqs[11].level);
  router.route(0, 0x8b);
  EXPECT_FALSE(irqs[11].level);
  EXPECT_TRUE(pins[0].level);
}

// Each write to the bridge's configuration space tells all routes.
TEST_F(PirqTest, TheSameRouteAgainIsNoEdge) {
  router.route(0, 10);
  router.input(0).set(true);
  router.route(0, 10);
  EXPECT_TRUE(irqs[10].level);
  EXPECT_EQ(irqs[10].rises, 1);
}

TEST_F(PirqTest, SharedLinesFallWithTheirLastUser) {
  router.route(0, 10);
  router.route(4, 10);
  IrqLine &a = router.input(0), &b = router.input(0), &c = router.input(4);
  a.set(true), b.set(true), c.set(true);
  a.set(false), b.set(false);
  EXPECT_FALSE(pins[0].level);
  EXPECT_TRUE(irqs[10].level);
  c.set(false);
  EXPECT_FALSE(irqs[10].level);
}

TEST_F(PirqTest, ReservedInterruptsAreNoRoutes) {
  IrqLine& in = router.input(1);
  in.set(true);
  for (uint8_t n : {0, 1, 2, 8, 13}) {
    router.route(1, n);
    EXPECT_FALSE(irqs[n].level);
  }
}

}  // namespace
}  // namespace vireo
