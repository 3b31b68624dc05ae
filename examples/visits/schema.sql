create table visits (id bigserial primary key, at timestamptz not null default now(), path text not null);
