"""Users, sessions, invitations and the audit trail. Tokens are stored as SHA-256 only; nobody can read them back."""

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from preceptor.store.connect import DatabaseFailure
from preceptor.store.schema import Row, labelers
from preceptor.store.schema_labelling import audit, invites, screening_members, sessions, users
from preceptor.store.statements import SESSION, USERS
from preceptor.store.store import Store
from preceptor.types import Labeler

ROLES = ("labeler", "researcher", "admin")
SESSION_SECONDS = 14 * 86400.0
INVITE_SECONDS = 7 * 86400.0
SEEN_SECONDS = 300.0  # `seen_at` is written at most this often, so that reading a page is not a write

_TREES = (
    "Alder Ash Aspen Bay Beech Birch Box Briar Cedar Cherry Cypress Damson Dogwood Elder Elm Fir Gean Gorse Hawthorn "
    "Hazel Heather Hemlock Holly Hornbeam Ivy Juniper Larch Laurel Lime Linden Maple Medlar Myrtle Nutmeg Oak Olive "
    "Osier Pear Pine Plane Plum Poplar Privet Quince Rowan Rush Sallow Sedge Sloe Spruce Sumac Sycamore "
    "Tamarisk Thorn Viburnum Walnut Willow Yew Zelkova"
)
PSEUDONYMS = tuple(_TREES.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """An account. `name` and `email` are for the owner of the workspace; others see the pseudonym."""

    id: str
    email: str
    name: str
    pseudonym: str
    role: str
    state: str
    labeler_id: str
    cohort: str
    password_hash: str
    settings: Mapping[str, Any]
    created_at: float

    @property
    def researches(self) -> bool:
        return self.role in ("researcher", "admin")


def new_token() -> str:
    """256 random bits, safe in an address."""
    return secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def new_id(prefix: str) -> str:
    """A random id: says nothing about what it names, and cannot be guessed."""
    return f"{prefix}_{secrets.token_hex(10)}"


class Accounts:
    """Everything about who may do what. `now` is the server's clock, in seconds since 1970."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time):
        self.store = store
        self.now = now

    # -- audit ----------------------------------------------------------------------------------------------

    def record(self, within: Connection, actor: str, action: str, subject: str = "", **detail: Any) -> None:
        """One line of the audit trail, in the transaction of what it tells about."""
        row = {"at": self.now(), "actor": actor, "action": action, "subject": subject, "detail": detail}
        within.execute(insert(audit).values(row))

    def note(self, actor: str, action: str, subject: str = "", **detail: Any) -> None:
        with self.store.write() as connection:
            self.record(connection, actor, action, subject, **detail)

    def trail(self, limit: int = 200, before: int | None = None) -> list[Row]:
        """The newest lines of the audit trail; `before` is the id of the oldest line already seen."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.id < before)
        with self.store.read() as connection:
            return list(connection.execute(query).mappings())

    # -- users ----------------------------------------------------------------------------------------------

    def user(self, user_id: str) -> User | None:
        return self._user(users.c.id == user_id)

    def user_by_email(self, email: str) -> User | None:
        return self._user(users.c.email == normal_email(email))

    def users(self) -> list[User]:
        with self.store.read() as connection:
            return [User(**row) for row in connection.execute(USERS.order_by(users.c.pseudonym)).mappings()]

    def trouble(self) -> str:
        """The name of the error with which the database answers; empty where all is well."""
        try:
            self.has_admin()
        except DatabaseFailure as error:
            return type(error).__name__
        return ""

    def has_admin(self) -> bool:
        query = select(func.count()).select_from(users).where(users.c.role == "admin", users.c.state == "active")
        with self.store.read() as connection:
            return connection.execute(query).scalar_one() > 0

    def _user(self, condition: Any) -> User | None:
        with self.store.read() as connection:
            row = connection.execute(USERS.where(condition)).mappings().first()
        return User(**row) if row else None

    def change_user(self, user_id: str, actor: str, **values: Any) -> None:
        """Set role, state, settings, password_hash, name or cohort. Taking rights away ends the user's sessions."""
        cohort = values.pop("cohort", None)
        with self.store.write() as connection:
            if values:
                connection.execute(update(users).where(users.c.id == user_id).values(values))
            if cohort is not None:
                labeler = select(users.c.labeler_id).where(users.c.id == user_id).scalar_subquery()
                connection.execute(update(labelers).where(labelers.c.id == labeler).values(cohort=cohort))
            if values.keys() & {"role", "state", "password_hash"}:
                self._revoke(connection, sessions.c.user_id == user_id)
            shown = {name: value for name, value in values.items() if name not in ("password_hash", "settings")}
            self.record(connection, actor, "user changed", user_id, fields=sorted(values), cohort=cohort, **shown)

    def rehash(self, user_id: str, password_hash: str) -> None:
        """Replace the hash of the same password by one with today's parameters; sessions stay."""
        with self.store.write() as connection:
            connection.execute(update(users).where(users.c.id == user_id).values(password_hash=password_hash))

    def set_settings(self, user_id: str, settings: Mapping[str, Any]) -> None:
        with self.store.write() as connection:
            connection.execute(update(users).where(users.c.id == user_id).values(settings=dict(settings)))

    # -- invitations ----------------------------------------------------------------------------------------

    def invite(
        self,
        made_by: str,
        *,
        role: str = "labeler",
        cohort: str = "training",
        email: str = "",
        user_id: str | None = None,
        screening_id: str | None = None,
        seconds: float = INVITE_SECONDS,
    ) -> str:
        """A token for one new account, or with `user_id` for a new password. It is shown once and never stored."""
        token = new_token()
        row = {
            "id": new_id("i"),
            "token_hash": hash_token(token),
            "role": role,
            "cohort": cohort,
            "email": normal_email(email),
            "user_id": user_id,
            "screening_id": screening_id,
            "made_by": made_by,
            "created_at": self.now(),
            "expires_at": self.now() + seconds,
        }
        with self.store.write() as connection:
            connection.execute(insert(invites).values(row))
            self.record(connection, made_by, "link made", row["id"], role=role, cohort=cohort, user=user_id)
        return token

    def find_invite(self, token: str) -> Row | None:
        """The open invitation of this token; none where it is unknown, used, revoked or too old."""
        with self.store.read() as connection:
            return connection.execute(self._open_invite(token)).mappings().first()

    def invites(self) -> list[Row]:
        """Invitations that still wait."""
        query = select(invites).where(invites.c.used_at.is_(None), invites.c.revoked_at.is_(None))
        with self.store.read() as connection:
            return list(connection.execute(query.order_by(invites.c.created_at.desc())).mappings())

    def revoke_invite(self, invite_id: str, actor: str) -> None:
        with self.store.write() as connection:
            connection.execute(update(invites).where(invites.c.id == invite_id).values(revoked_at=self.now()))
            self.record(connection, actor, "link revoked", invite_id)

    def accept(self, token: str, *, name: str, email: str, password_hash: str, settings: Mapping[str, Any]):
        """Turn an invitation into an account. Returns the user, or the word `used` or `email` for why not."""
        email = normal_email(email)
        with self.store.write() as connection:
            invite = connection.execute(self._open_invite(token).with_for_update()).mappings().first()
            if invite is None:
                return "used"
            if connection.execute(select(users.c.id).where(users.c.email == email)).first():
                return "email"
            pseudonym = self._free_pseudonym(connection)
            labeler = Labeler(id=new_id("l"), name=pseudonym, cohort=invite["cohort"])
            self.store.add_labelers([labeler], within=connection)
            user_id = new_id("u")
            row = {
                "id": user_id,
                "email": email,
                "name": name,
                "pseudonym": pseudonym,
                "role": invite["role"],
                "state": "trial" if invite["screening_id"] else "active",
                "labeler_id": labeler.id,
                "password_hash": password_hash,
                "settings": dict(settings),
                "created_at": self.now(),
            }
            connection.execute(insert(users).values(row))
            if invite["screening_id"]:
                member = {"screening_id": invite["screening_id"], "labeler_id": labeler.id}
                connection.execute(insert(screening_members).values(member))
            self._use(connection, invite["id"], user_id)
            self.record(connection, user_id, "account made", user_id, role=invite["role"], invite=invite["id"])
        return self.user(user_id)

    def accept_password(self, token: str, password_hash: str) -> User | None:
        """Set a new password by a link; all sessions of the user end."""
        with self.store.write() as connection:
            invite = connection.execute(self._open_invite(token).with_for_update()).mappings().first()
            if invite is None or invite["user_id"] is None:
                return None
            where = users.c.id == invite["user_id"]
            connection.execute(update(users).where(where).values(password_hash=password_hash))
            self._revoke(connection, sessions.c.user_id == invite["user_id"])
            self._use(connection, invite["id"], invite["user_id"])
            self.record(connection, invite["user_id"], "password set by link", invite["user_id"])
        return self.user(invite["user_id"])

    def _open_invite(self, token: str):
        return select(invites).where(
            invites.c.token_hash == hash_token(token),
            invites.c.used_at.is_(None),
            invites.c.revoked_at.is_(None),
            invites.c.expires_at > self.now(),
        )

    def _use(self, connection: Connection, invite_id: str, user_id: str) -> None:
        values = {"used_at": self.now(), "used_by": user_id}
        connection.execute(update(invites).where(invites.c.id == invite_id).values(values))

    def _free_pseudonym(self, connection: Connection) -> str:
        taken = set(connection.execute(select(users.c.pseudonym)).scalars())
        taken |= set(connection.execute(select(labelers.c.name)).scalars())
        start = secrets.randbelow(len(PSEUDONYMS))
        for number in range(1, len(taken) + 2):
            for place in range(len(PSEUDONYMS)):
                name = PSEUDONYMS[(start + place) % len(PSEUDONYMS)]
                name = name if number == 1 else f"{name} {number}"
                if name not in taken:
                    return name
        raise AssertionError("more names than labelers, one is free")

    # -- sessions -------------------------------------------------------------------------------------------

    def open_session(self, user_id: str, agent: str) -> str:
        """A new session; returns its token for the cookie."""
        token = new_token()
        now = self.now()
        row = {
            "id": new_id("s"),
            "token_hash": hash_token(token),
            "user_id": user_id,
            "agent": agent[:200],
            "created_at": now,
            "seen_at": now,
            "expires_at": now + SESSION_SECONDS,
        }
        with self.store.write() as connection:
            connection.execute(insert(sessions).values(row))
            self.record(connection, user_id, "signed in", row["id"])
        return token

    def find_session(self, token: str) -> tuple[User, str] | None:
        """The user and session id behind a cookie; none where it is unknown, ended, or the account disabled."""
        now = self.now()
        with self.store.read() as connection:
            row = connection.execute(SESSION, {"token_hash": hash_token(token), "now": now}).mappings().first()
        if row is None:
            return None
        values = dict(row)
        session_id, seen_at = values.pop("session_id"), values.pop("seen_at")
        if now - seen_at > SEEN_SECONDS or now < seen_at:  # seen in the future: the clock was set back
            with self.store.write() as connection:
                fresh = {"seen_at": now, "expires_at": now + SESSION_SECONDS}
                connection.execute(update(sessions).where(sessions.c.id == session_id).values(fresh))
        return User(**values), session_id

    def sessions(self, user_id: str | None = None) -> list[Row]:
        """Live sessions with the user's name, newest first."""
        query = (
            select(sessions, users.c.name, users.c.pseudonym)
            .join(users, sessions.c.user_id == users.c.id)
            .where(sessions.c.revoked_at.is_(None), sessions.c.expires_at > self.now())
            .order_by(sessions.c.seen_at.desc())
        )
        if user_id is not None:
            query = query.where(sessions.c.user_id == user_id)
        with self.store.read() as connection:
            return list(connection.execute(query).mappings())

    def revoke_session(self, session_id: str, actor: str, user_id: str | None = None) -> None:
        """End a session; with `user_id` only if it is that user's own."""
        condition = sessions.c.id == session_id
        if user_id is not None:
            condition = condition & (sessions.c.user_id == user_id)
        with self.store.write() as connection:
            if self._revoke(connection, condition):
                self.record(connection, actor, "session ended", session_id)

    def _revoke(self, connection: Connection, condition: Any) -> int:
        live = update(sessions).where(condition, sessions.c.revoked_at.is_(None))
        return connection.execute(live.values(revoked_at=self.now())).rowcount


def normal_email(email: str) -> str:
    return email.strip().casefold()
