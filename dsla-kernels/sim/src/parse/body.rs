//! A kernel's body: declarations, scopes, labels and statements.

use super::operand::special;
use super::{Operand, Parser, Res, SharedVar, Var};
use crate::lex::Tok;
use crate::op::{Addr, Func, Ix, Kind, Op, PredRef, Reg, Slot, Special};
use crate::types::Type;
use crate::{Fault, Param};
use std::collections::HashMap;

struct Scope {
    parent: usize,
    vars: HashMap<String, Var>,
    labels: HashMap<String, u32>,
}

/// One kernel being built.
pub(crate) struct Body<'a> {
    pub p: &'a mut Parser,
    pub params: &'a [Param],
    module_shared: &'a [SharedVar],
    func: Func,
    scopes: Vec<Scope>,
    scope: usize,
    preloaded: HashMap<(Slot, bool), Ix>,
    /// Branches to resolve: instruction, scope, label.
    branches: Vec<(usize, usize, String)>,
    shared_at: u32,
    dynamic_align: u32,
    /// The line of the statement.
    pub line: usize,
    /// Special registers may be sources: of mov, and of cvt between integers.
    pub specials: bool,
    /// Addresses of variables may be sources: of mov and cvta.
    pub variables: bool,
}

impl<'a> Body<'a> {
    /// After the `{`, through the `}`.
    pub fn parse(p: &'a mut Parser, params: &'a [Param], module_shared: &'a [SharedVar]) -> Res<Func> {
        let func = Func {
            ops: Vec::new(),
            r32: Vec::new(),
            r64: Vec::new(),
            preds: 0,
            names: [Vec::new(), Vec::new(), Vec::new()],
            static_shared: 0,
            dynamic_base: 0,
            param_bytes: params.last().map_or(0, |p| p.offset + p.size),
            reqntid: None,
            max_threads: None,
        };
        let root = Scope { parent: usize::MAX, vars: HashMap::new(), labels: HashMap::new() };
        let mut b = Body {
            p,
            params,
            module_shared,
            func,
            scopes: vec![root],
            scope: 0,
            preloaded: HashMap::new(),
            branches: Vec::new(),
            shared_at: 0,
            dynamic_align: 16,
            line: 0,
            specials: false,
            variables: false,
        };
        while b.statement()? {}
        b.finish()
    }

    fn finish(mut self) -> Res<Func> {
        for (op, scope, label) in std::mem::take(&mut self.branches) {
            let line = self.func.ops[op].line as usize;
            let to = self.up(scope).find_map(|s| s.labels.get(&label).copied());
            let to = to.ok_or_else(|| Fault::load(line, format!("no label {label} in reach")))?;
            if let Kind::Bra { to: t, .. } = &mut self.func.ops[op].kind {
                *t = to;
            }
        }
        // Running off the end is an exit.
        self.func.ops.push(Op {
            kind: Kind::Exit,
            guard: None,
            line: self.p.line() as u32,
            class: crate::op::Class::Control,
            pipe: crate::op::Pipe::None,
        });
        self.func.static_shared = self.shared_at;
        self.func.dynamic_base = self.shared_at.next_multiple_of(self.dynamic_align);
        Ok(self.func)
    }

    fn up(&self, from: usize) -> impl Iterator<Item = &Scope> {
        std::iter::successors(self.scopes.get(from), |s| self.scopes.get(s.parent))
    }

    pub fn error(&self, what: impl Into<String>) -> Fault {
        Fault::load(self.line, what)
    }

    /// One statement; false after the body's last `}`.
    fn statement(&mut self) -> Res<bool> {
        self.line = self.p.line();
        if self.p.eat('{') {
            self.scopes.push(Scope { parent: self.scope, vars: HashMap::new(), labels: HashMap::new() });
            self.scope = self.scopes.len() - 1;
            return Ok(true);
        }
        if self.p.eat('}') {
            if self.scope == 0 {
                return Ok(false);
            }
            self.scope = self.scopes[self.scope].parent;
            return Ok(true);
        }
        if self.p.eat('@') {
            let not = self.p.eat('!');
            let name = self.p.name("a predicate")?;
            let ix = self.pred(&name)?;
            let opcode = self.p.word("an instruction")?;
            self.instruction(&opcode, Some(PredRef { ix, not }))?;
            return Ok(true);
        }
        let word = self.p.word("a statement")?;
        if word.starts_with('.') {
            self.directive(&word)?;
        } else if self.p.eat(':') {
            if word.contains('.') {
                return Err(self.error(format!("`{word}` cannot be a label")));
            }
            let at = self.func.ops.len() as u32;
            if self.scopes[self.scope].labels.insert(word.clone(), at).is_some() {
                return Err(self.error(format!("a second label {word} in one scope")));
            }
        } else {
            self.instruction(&word, None)?;
        }
        Ok(true)
    }

    fn directive(&mut self, word: &str) -> Res<()> {
        match word {
            ".reg" => self.registers(),
            ".shared" => {
                let v = self.p.shared_var(false)?;
                let var = self.place(&v);
                self.declare(v.name, var)
            }
            ".pragma" => {
                self.p.next();
                self.p.want(';')
            }
            ".loc" | ".file" => {
                let line = self.p.line();
                while self.p.line() == line && *self.p.peek() != Tok::End {
                    self.p.next();
                }
                Ok(())
            }
            _ => Err(self.error(format!("directive `{word}` is not supported"))),
        }
    }

    fn registers(&mut self) -> Res<()> {
        let word = self.p.word("a register type")?;
        let ty = word.strip_prefix('.').and_then(Type::named);
        let ty = ty.filter(|t| !matches!(t, Type::Bf16 | Type::Bf16x2 | Type::B8 | Type::U8 | Type::S8));
        let ty = ty.ok_or_else(|| self.error(format!("`{word}` is no register type")))?;
        loop {
            let name = self.p.name("a register's name")?;
            if self.p.eat('<') {
                let n = self.p.int("a count")?;
                self.p.want('>')?;
                if n > 1 << 16 {
                    return Err(self.error(format!("{n} registers at once")));
                }
                for i in 0..n {
                    self.declare(format!("{name}{i}"), Var::Reg(ty, None))?;
                }
            } else {
                self.declare(name, Var::Reg(ty, None))?;
            }
            if self.p.eat(';') {
                return Ok(());
            }
            self.p.want(',')?;
        }
    }

    fn declare(&mut self, name: String, var: Var) -> Res<()> {
        if self.scope == 0 && self.params.iter().any(|p| p.name == name) {
            return Err(self.error(format!("{name} is a parameter already")));
        }
        match self.scopes[self.scope].vars.insert(name.clone(), var) {
            Some(_) => Err(self.error(format!("a second {name} in one scope"))),
            None => Ok(()),
        }
    }

    fn place(&mut self, v: &SharedVar) -> Var {
        match v.bytes {
            Some(n) => {
                let at = self.shared_at.next_multiple_of(v.align);
                self.shared_at = at + n;
                Var::Shared(at)
            }
            None => {
                self.dynamic_align = self.dynamic_align.max(v.align);
                Var::Dynamic
            }
        }
    }

    /// What a name stands for, module-level shared variables placed on first use.
    pub fn lookup(&mut self, name: &str) -> Res<Var> {
        if let Some(v) = self.up(self.scope).find_map(|s| s.vars.get(name)) {
            return Ok(v.clone());
        }
        if let Some(v) = self.module_shared.iter().find(|v| v.name == name) {
            let var = self.place(v);
            self.scopes[0].vars.insert(name.to_string(), var.clone());
            return Ok(var);
        }
        Err(self.error(format!("{name} is not declared")))
    }

    /// The register of a name: its index (given now if this is its first use) and declared type.
    pub fn register(&mut self, name: &str) -> Res<(Reg, Type)> {
        let Var::Reg(ty, ix) = self.lookup(name)? else {
            return Err(self.error(format!("{name} is a variable in memory, not a register")));
        };
        let wide = ty.size() == 8;
        if let Some(ix) = ix {
            return Ok((Reg { ix, wide }, ty));
        }
        let ix = match ty {
            Type::Pred => {
                self.func.preds += 1;
                self.func.names[2].push(name.to_string());
                self.index(self.func.preds - 1)?
            }
            _ => self.slot(Slot::Var, wide, name)?,
        };
        let mut s = self.scope;
        while let Some(scope) = self.scopes.get_mut(s) {
            if let Some(v) = scope.vars.get_mut(name) {
                *v = Var::Reg(ty, Some(ix));
                break;
            }
            s = scope.parent;
        }
        Ok((Reg { ix, wide }, ty))
    }

    fn index(&self, i: usize) -> Res<Ix> {
        Ix::try_from(i).map_err(|_| self.error("more than 65536 registers"))
    }

    fn slot(&mut self, slot: Slot, wide: bool, name: &str) -> Res<Ix> {
        let file = if wide { &mut self.func.r64 } else { &mut self.func.r32 };
        file.push(slot);
        let i = file.len() - 1;
        self.func.names[usize::from(wide)].push(name.to_string());
        self.index(i)
    }

    /// A register that holds `slot` from the start.
    pub fn preload(&mut self, slot: Slot, wide: bool) -> Res<Reg> {
        if let Some(ix) = self.preloaded.get(&(slot, wide)) {
            return Ok(Reg { ix: *ix, wide });
        }
        let ix = self.slot(slot, wide, &format!("{slot:?}"))?;
        self.preloaded.insert((slot, wide), ix);
        Ok(Reg { ix, wide })
    }

    pub fn pred(&mut self, name: &str) -> Res<Ix> {
        match self.register(name)? {
            (r, Type::Pred) => Ok(r.ix),
            (_, t) => Err(self.error(format!("{name} is .{}, want a predicate", t.name()))),
        }
    }

    /// A source operand: an immediate, a special register, the address of a shared variable, or a register that `ok`
    /// accepts.
    pub fn source(&mut self, o: &Operand, ty: Type, ok: fn(Type, Type) -> bool) -> Res<(Reg, Type)> {
        let wide = ty.size() == 8;
        let mismatch =
            |b: &Body, what: &str| b.error(format!("{o} is {what}, the instruction wants .{}", ty.name()));
        match o {
            Operand::Int(v, minus) => {
                let bits = ty.size() as u32 * 8;
                if ty.float() {
                    return Err(mismatch(self, "an integer"));
                }
                let fits = match (bits, minus) {
                    (64, _) => true,
                    (_, false) => *v < 1 << bits,
                    (_, true) => *v as i64 >= -(1i64 << (bits - 1)),
                };
                if !fits {
                    return Err(mismatch(self, "too large"));
                }
                let v = if bits == 64 { *v } else { v & ((1u64 << bits) - 1) };
                Ok((self.preload(Slot::Const(v), wide)?, ty))
            }
            Operand::F32(v) if matches!(ty, Type::F32 | Type::B32) => {
                Ok((self.preload(Slot::Const(u64::from(*v)), false)?, ty))
            }
            Operand::F64(v) if matches!(ty, Type::F64 | Type::B64) => {
                Ok((self.preload(Slot::Const(*v), true)?, ty))
            }
            Operand::F64(v) if ty == Type::F32 => {
                let v = (f64::from_bits(*v) as f32).to_bits();
                Ok((self.preload(Slot::Const(u64::from(v)), false)?, ty))
            }
            Operand::F32(_) | Operand::F64(_) => Err(mismatch(self, "a floating-point number")),
            Operand::Name(n) => {
                if let Some(s) = special(n) {
                    if !self.specials {
                        return Err(self.error(format!("{n} must be moved to a register first")));
                    }
                    if !ok(ty, Type::U32) {
                        return Err(mismatch(self, ".u32"));
                    }
                    return Ok((self.preload(Slot::Special(s), false)?, Type::U32));
                }
                match self.lookup(n)? {
                    Var::Reg(..) => {
                        let (r, t) = self.register(n)?;
                        if !ok(ty, t) {
                            return Err(mismatch(self, &format!(".{}", t.name())));
                        }
                        Ok((r, t))
                    }
                    _ => self.variable(n, 0, ty),
                }
            }
            Operand::Offset(n, offset) => self.variable(n, *offset, ty),
            _ => Err(self.error(format!("{o} cannot be a source here, want .{}", ty.name()))),
        }
    }

    /// The address of a shared variable, as a number.
    fn variable(&mut self, name: &str, offset: i64, ty: Type) -> Res<(Reg, Type)> {
        if ty.float() || ty.size() < 4 || !self.variables {
            return Err(self.error(format!("the address of {name} must be moved to a register first")));
        }
        let wide = ty.size() == 8;
        match self.lookup(name)? {
            Var::Shared(at) => {
                let at = (i64::from(at) + offset) as u32;
                Ok((self.preload(Slot::Const(u64::from(at)), wide)?, ty))
            }
            Var::Dynamic if offset == 0 => Ok((self.preload(Slot::Special(Special::DynamicBase), wide)?, ty)),
            _ => Err(self.error(format!("{name}{offset:+} is not supported"))),
        }
    }

    /// A destination register.
    pub fn target(&mut self, o: &Operand, ty: Type, ok: fn(Type, Type) -> bool) -> Res<(Reg, Type)> {
        let Operand::Name(n) = o else {
            return Err(self.error(format!("{o} cannot be a destination, want a .{} register", ty.name())));
        };
        let (r, t) = self.register(n)?;
        if !ok(ty, t) {
            return Err(self.error(format!("{n} is .{}, the instruction writes .{}", t.name(), ty.name())));
        }
        Ok((r, t))
    }

    /// An address operand.
    pub fn address(&mut self, o: &Operand, shared: bool) -> Res<Addr> {
        let Operand::Address(base, offset) = o else {
            return Err(self.error(format!("want an address in brackets, got {o}")));
        };
        let Some(name) = base else {
            return Err(self.error("a constant is no address"));
        };
        match self.lookup(name)? {
            Var::Reg(..) => {
                let (r, t) = self.register(name)?;
                if t.float() || t == Type::Pred || t.size() < 4 || (t.size() < 8 && !shared) {
                    return Err(self.error(format!("{name} is .{}, which is no address here", t.name())));
                }
                Ok(Addr { base: Some(r), offset: *offset })
            }
            _ if !shared => Err(self.error(format!("{name} is shared, the instruction is not"))),
            Var::Shared(at) => Ok(Addr { base: None, offset: i64::from(at) + offset }),
            Var::Dynamic => {
                let base = Some(self.preload(Slot::Special(Special::DynamicBase), false)?);
                Ok(Addr { base, offset: *offset })
            }
        }
    }

    fn instruction(&mut self, opcode: &str, guard: Option<PredRef>) -> Res<()> {
        let operands = self.p.operands()?;
        let (kind, class, pipe) = crate::inst::build(self, opcode, operands)?;
        if let Kind::Bra { .. } = kind {
            // The builder left the label's name behind.
            let label = self.branches.pop();
            self.branches.extend(label.map(|(_, _, l)| (self.func.ops.len(), self.scope, l)));
        }
        self.func.ops.push(Op { kind, guard, line: self.line as u32, class, pipe });
        Ok(())
    }

    /// The branch being built goes to this label.
    pub fn branch(&mut self, label: &str) {
        self.branches.push((0, 0, label.to_string()));
    }

    /// The module must say at least this `.version` (times ten) and `.target`.
    pub fn need(&self, version: u32, target: u32, what: &str) -> Res<()> {
        if self.p.version < version || self.p.target < target {
            return Err(self.error(format!(
                "{what} wants .version {}.{} and sm_{target}, the module says {}.{} and sm_{}",
                version / 10,
                version % 10,
                self.p.version / 10,
                self.p.version % 10,
                self.p.target
            )));
        }
        Ok(())
    }
}
