// Everything that is compiled once per instruction set. Included by target_*.cpp only, which are
// compiled with that set's flags.
//
// Invariant: nothing here may use an inline function or a template of external linkage outside the
// target's namespace (most of the standard library): the linker keeps one copy of such a function,
// and it could be the one that needs AVX-512. tests/unit/ops looks at the objects' symbols.
#include <operator_loops.inl>  // the *.inl of every operator: generated from operators.cmake
