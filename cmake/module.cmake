# SPDX-License-Identifier: Apache-2.0
# vireo_module(NAME SOURCES ... [DEPENDS ...] [TESTS ...] [FAST])
#   One folder of src/ as a static library vireo_NAME, and its *_test.cpp files as one GoogleTest program NAME_test.
#   FAST: general-purpose registers only and no hidden library calls: such code may run while the guest's SIMD and
#   x87 state is live in the host registers.
option(VIREO_FUZZ "build the fuzz targets (clang)" OFF)
option(VIREO_BENCH "build the benchmarks" OFF)
option(VIREO_VERIFY_BLOCKS "decode every emitted block again and check it before it runs" OFF)
set(VIREO_SANITIZE "" CACHE STRING "value for -fsanitize=")

set(VIREO_WARNINGS -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers -Wno-psabi)
set(VIREO_FAST_FLAGS -mgeneral-regs-only -fno-exceptions -fno-rtti
    -fno-stack-protector -mno-red-zone -fcf-protection=none -fno-builtin-memcpy -fno-builtin-memset)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # Arrays that are cleared or copied whole: by REP STOS and REP MOVS, not by the C library, which uses SIMD registers.
  list(APPEND VIREO_FAST_FLAGS -fno-tree-loop-distribute-patterns -mmemset-strategy=rep_8byte:-1:noalign -mmemcpy-strategy=rep_8byte:-1:noalign)
endif()

if(VIREO_SANITIZE AND NOT VIREO_FUZZ)
  # The sanitizers' runtime uses SIMD registers and libc. -O2: at less, inline functions become shared ones, and the
  # linker may take the instrumented copy of another file.
  list(APPEND VIREO_FAST_FLAGS -O2 -fno-sanitize=all)
endif()
if(VIREO_FUZZ AND CMAKE_CXX_COMPILER_ID MATCHES Clang)
  # clang does not take the standard library's headers without floating point; the fuzz targets run no translated code.
  list(REMOVE_ITEM VIREO_FAST_FLAGS -mgeneral-regs-only)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  list(APPEND VIREO_WARNINGS -Wno-deprecated-declarations)  # std::stable_sort of libstdc++ 12 makes one
endif()

add_library(vireo_flags INTERFACE)
target_include_directories(vireo_flags BEFORE INTERFACE ${CMAKE_SOURCE_DIR}/src/base/linux_headers ${CMAKE_SOURCE_DIR}/src)
target_compile_options(vireo_flags INTERFACE ${VIREO_WARNINGS} -fno-omit-frame-pointer)
target_compile_definitions(vireo_flags INTERFACE _GNU_SOURCE $<$<BOOL:${VIREO_VERIFY_BLOCKS}>:VIREO_VERIFY_BLOCKS>)
if(VIREO_SANITIZE)
  # GCC's own manual: the sanitizers' extra code makes this warning fire where nothing is wrong.
  target_compile_options(vireo_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  # vptr checks need type information, which the parts built without RTTI do not have.
  # What a target inherits stands after its own options on the command line, so FAST's -fno-sanitize would not win.
  set(plain "$<AND:$<BOOL:$<TARGET_PROPERTY:VIREO_FAST>>,$<NOT:$<BOOL:${VIREO_FUZZ}>>>")
  target_compile_options(vireo_flags INTERFACE
    "$<$<NOT:${plain}>:-fsanitize=${VIREO_SANITIZE}>" "$<$<NOT:${plain}>:-fno-sanitize=vptr>"
    # A finding ends the program. Code that goes on after one takes a fifth more time to compile, and objects twice as large.
    "$<$<NOT:${plain}>:-fno-sanitize-recover=all>")
  target_link_options(vireo_flags INTERFACE -fsanitize=${VIREO_SANITIZE})
endif()

find_package(GTest REQUIRED)

function(vireo_module NAME)
  cmake_parse_arguments(M "FAST" "" "SOURCES;DEPENDS;LIBS;TESTS" ${ARGN})
  add_library(vireo_${NAME} STATIC ${M_SOURCES})
  target_link_libraries(vireo_${NAME} PUBLIC vireo_flags)
  foreach(d ${M_DEPENDS})
    target_link_libraries(vireo_${NAME} PUBLIC vireo_${d})
  endforeach()
  target_link_libraries(vireo_${NAME} PUBLIC ${M_LIBS} Threads::Threads)
  if(M_FAST)
    set_target_properties(vireo_${NAME} PROPERTIES VIREO_FAST ON)
    target_compile_options(vireo_${NAME} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:${VIREO_FAST_FLAGS}>)
    if(NOT VIREO_FUZZ AND NOT VIREO_VERIFY_BLOCKS)  # the verifier, and what reports its findings, are not FAST
      add_test(NAME ${NAME}_fast COMMAND ${CMAKE_SOURCE_DIR}/tests/fast_code $<TARGET_FILE:vireo_${NAME}>)
    endif()
  endif()
  if(M_TESTS)
    add_executable(${NAME}_test ${M_TESTS})
    target_link_libraries(${NAME}_test PRIVATE vireo_${NAME} GTest::gtest GTest::gmock GTest::gtest_main)
    add_test(NAME ${NAME} COMMAND ${NAME}_test)
  endif()
endfunction()
