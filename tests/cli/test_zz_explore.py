import functools, os, json
from pathlib import Path
log=functools.partial(print, file=open("/tmp/xlog","w"), flush=True)
def test_x(project, caplog):
    p=project.folder
    o=project.train(); log(o.code)
    cks=sorted((project.run/"checkpoints").iterdir())
    f=cks[-1]/"model.safetensors"; good=f.read_bytes()
    f.write_bytes(good[:-5]); o=project.train("stages.0.steps=6"); log("cut",o, caplog.text); caplog.clear()
    log(sorted(x.name for x in (project.run/"checkpoints").iterdir()))
    for c in (project.run/"checkpoints").iterdir():
        if c.name.startswith("0"): b=bytearray((c/"model.safetensors").read_bytes()); b[-1]^=1; (c/"model.safetensors").write_bytes(b)
    o=project.train("stages.0.steps=8"); log("allbad", o, caplog.text);caplog.clear()
    o=project.lmkit("generate", project.run, "-p","a"); log("gen allbad",o)
    o=project.train("out="+str(project.folder/"run2")); log(o.code)
    o=project.train("out="+str(project.folder/"run3"), f"stages.0.init_from={p/'run2'}", "model={class: lmkit_models.mlp.MLP, nodes: 8, max_len: 16}"); log("arch",o, sorted(str(x) for x in (p/"run3").rglob("*")) if (p/"run3").exists() else "-")
    o=project.train("out="+str(project.folder/"run2"), "model={class: lmkit_models.mlp.MLP, nodes: 8, max_len: 16}"); log("arch resume",o)
    o=project.train("out="+str(project.folder/"run2"), "model={class: lmkit_models.mlp.MLP, nodes: 8, max_len: 16}","--allow-change","model*","stages.0.steps=6"); log("arch resume",o)
    o=project.train("out="+str(project.folder/"run2")); log("finished",o)
    o=project.train("out="+str(project.folder/"run2"), "--allow-change=*","stages.0.steps=2"); log("shorter",o)
    # nan
    project.rewrite("return self.embedding(tokens)", "out = self.embedding(tokens)\n        self.calls = getattr(self, 'calls', 0) + 1\n        return out * float('nan') if self.calls > 9 else out", "my_model.py")
    o=project.train("out="+str(project.folder/"run4"), "stages.0.steps=20"); log("nan",o, sorted(str(x.relative_to(p)) for x in (p/"run4").rglob("*")))
    o=project.train("out=/proc/nope/x"); log("proc", o)
    o=project.train("out=/dev/full/x"); log("devfull", o)
