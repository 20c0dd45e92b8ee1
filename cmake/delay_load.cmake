# SPDX-License-Identifier: Apache-2.0
# vireo_delay_load(NAME LIBRARY file FUNCTIONS ...)
#   A library vireo_delayed_NAME to link instead of the shared library: its functions of the names given are jumps into that one,
#   which is loaded by its SONAME when it is first needed (base/delay_load.h). Each is asked for in the version that the linker would have
#   bound. A function that is called and not named here is missing when a program is linked; one that is named here and not in the library
#   is an error of cmake's.
function(vireo_delay_load NAME)
  cmake_parse_arguments(D "" "LIBRARY" "FUNCTIONS" ${ARGN})
  if(NOT D_LIBRARY OR NOT D_FUNCTIONS OR D_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "vireo_delay_load(${NAME}): LIBRARY, one file, and FUNCTIONS are wanted, not ${ARGN}")
  endif()
  get_filename_component(file ${D_LIBRARY} REALPATH)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  execute_process(COMMAND ${CMAKE_READELF} -d ${file} OUTPUT_VARIABLE dynamic COMMAND_ERROR_IS_FATAL ANY)
  if(NOT dynamic MATCHES "\\(SONAME\\)[^[]*\\[([^]]+)\\]")
    message(FATAL_ERROR "${file}: no SONAME")
  endif()
  set(soname ${CMAKE_MATCH_1})
  execute_process(COMMAND ${CMAKE_NM} -D --defined-only ${file} OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  set(lines "")
  foreach(function ${D_FUNCTIONS})
    # "ADDRESS T name@@VERSION"; an @ alone is a version that only older programs ask for. Not data: those have no code to jump to.
    if(NOT symbols MATCHES "[0-9a-f]+ [TWi] ${function}(@@([^\n@]+))?\n")
      message(FATAL_ERROR "${file}: no function ${function}")
    endif()
    string(APPEND lines "delay_load_function ${function}, ${CMAKE_MATCH_2}\n")
  endforeach()
  set(source ${CMAKE_CURRENT_BINARY_DIR}/delayed_${NAME}.S)
  file(CONFIGURE OUTPUT ${source} CONTENT
    "#include \"base/delay_load_macros.inc\"\ndelay_load_begin ${NAME}\n${lines}delay_load_end ${NAME}, ${soname}\n" @ONLY)
  add_library(vireo_delayed_${NAME} STATIC ${source})
  target_link_libraries(vireo_delayed_${NAME} PUBLIC vireo_base)
endfunction()
