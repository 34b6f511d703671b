// What is exported: C functions, typed for Python in signatures.py.
#pragma once

#define QUIRE_API extern "C" __attribute__((visibility("default")))
