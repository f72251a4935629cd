"""trial: what runs in the fresh interpreter of `execution`: the standard library, nothing of lmkit.

The interpreter divides into two processes. The tests run in the first (`supervisor`), the program
in its child (`confined`, behind a `wall`), which is told the arguments of a call and tells what its
function gives back, as plain data (`plain`). The child is born before the tests are read and holds
no way to the verdict, which is the exit status of the first. So a program can exit, print, raise or
return objects that are equal to everything: it passes by right answers only.

They import each other relatively: they are `trial` there and `lmkit.evals.trial` here, where
they are compiled once; as a script they would be compiled at every start.
"""
